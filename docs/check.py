"""Are the docs true to the code, and whole: generated pages current, links leading somewhere.

`python docs/check.py` exits with 1 and says what is wrong.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"``.+?``|`[^`\n]+`")


def pages() -> list[Path]:
    """Every Markdown file of the repository that people read."""
    own = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "demo" / "data" / "README.md"]
    return [*own, *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def prose(page: Path) -> str:
    """A page without its code."""
    return CODE.sub("", FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    titles = re.findall(r"^#{1,6} +(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[\s]+", "-", title) for title in plain}


def broken_links() -> Iterator[str]:
    """Links that lead nowhere in this repository. Others are not followed."""
    for page in pages():
        for match in LINK.finditer(prose(page)):
            target = match[1] or match[2]
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            where = page.relative_to(ROOT)
            if not path.exists():
                yield f"{where}: there is no {target}"
            elif anchor and path.suffix == ".md" and anchor not in anchors(path):
                yield f"{where}: {target} has no such heading"


def main() -> int:
    broken = list(broken_links())
    print("\n".join(broken), end="\n" if broken else "", file=sys.stderr)
    generated = subprocess.run([sys.executable, DOCS / "generate.py", "--check"])
    return 1 if broken or generated.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
