"""The docs are true: generated pages current, links whole, YAML that validates, Python that runs."""

from __future__ import annotations

import importlib.util
import json
import mailbox
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
WRITTEN = [
    path
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if "written by docs/generate.py" not in path.read_text()[:200]
]


def module(name: str) -> ModuleType:
    """A script of docs/, loaded by its path."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def blocks(language: str) -> list[tuple[str, str, str]]:
    """(page:line, title, text) of each code block in a hand-written page."""
    found = []
    for page in WRITTEN:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{page.relative_to(ROOT)}:{line}", match[2] or "", match[3]))
    return found


def dataflare(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataflare", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_generated_pages_are_current():
    generate = module("generate")
    old = [f"{name}\n{difference}" for name, difference in generate.outdated(generate.pages())]
    assert not old, "run `make generate`\n" + "\n".join(old)


def test_links_lead_somewhere():
    assert list(module("check").broken_links()) == []


def test_the_picture_of_the_plan_is_an_image_without_scripts_or_fetched_parts():
    tree = ElementTree.parse(DOCS / "assets" / "plan.svg")
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert tree.getroot().tag.endswith("svg")
    assert not tags & {"script", "image", "foreignObject"}


WORKFLOWS = [
    block
    for block in blocks("yaml")
    if all(re.search(rf"^{key}:", block[2], re.MULTILINE) for key in ("name", "sources"))
]


@pytest.mark.parametrize(
    ("where", "text"),
    [(w, t) for w, title, t in WORKFLOWS if title not in ("mail.yaml", "gaps.yaml")],
)
def test_a_workflow_in_the_docs_validates(where: str, text: str, tmp_path: Path):
    """Beside the CSV of the same page, if it has one, and the module of the examples."""
    shutil.copy(ROOT / "examples/loyalty.py", tmp_path)
    (tmp_path / "flow.yaml").write_text(text)
    for place, _, rows in blocks("csv"):
        if place.partition(":")[0] == where.partition(":")[0]:
            (tmp_path / "orders.csv").write_text(rows)
    if not (tmp_path / "orders.csv").exists():
        (tmp_path / "orders.csv").write_text((ROOT / "examples/data/orders.csv").read_text())
    # As `validate`, but input files may be missing; its tests hold, too.
    done = dataflare("test", "flow.yaml", cwd=tmp_path)
    assert done.returncode == 0, f"{where}\n{done.stderr}"


@pytest.mark.parametrize(("where", "text"), [(w, t) for w, _, t in blocks("yaml")])
def test_yaml_in_the_docs_is_yaml(where: str, text: str):
    assert isinstance(yaml.safe_load(text), dict | list), where


def test_the_error_shown_on_the_start_page_is_the_error(tmp_path: Path):
    page = "docs/start.md"
    workflow = next(t for w, _, t in blocks("yaml") if w.startswith(page) and "sources:" in t)
    shown = next(t for w, _, t in blocks("text") if w.startswith(page) and "error[" in t)
    rows = next(t for w, _, t in blocks("csv") if w.startswith(page))
    (tmp_path / "orders.csv").write_text(rows)
    (tmp_path / "orders.yaml").write_text(workflow.replace('"amount > 0"', '"amuont > 0"'))
    done = dataflare("validate", "orders.yaml", cwd=tmp_path)
    assert [line.strip() for line in done.stderr.splitlines()] == [
        line.strip() for line in shown.splitlines()
    ]
    assert done.returncode == 2


def test_the_plugin_on_the_extend_page_runs(tmp_path: Path):
    for where, title, text in (*blocks("python"), *blocks("yaml")):
        if where.startswith("docs/extend.md") and title:
            (tmp_path / title).write_text(text)
    box = mailbox.mbox(tmp_path / "inbox.mbox")
    for i in range(5):
        message = mailbox.mboxMessage()
        message["From"], message["Date"] = "Ada@Example.com", "Fri, 01 Mar 2024 09:12:00 +0000"
        if i != 3:
            message["Subject"] = f"letter {i}"
        box.add(message)
    box.flush()
    done = subprocess.run(
        [sys.executable, "run_mail.py"],
        cwd=tmp_path,
        env={**os.environ, "DATAFLARE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    import dbm.dumb

    with dbm.dumb.open(str(tmp_path / "kept"), "r") as kept:
        rows = sorted((json.loads(kept[key]) for key in kept), key=lambda row: row["number"])
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["sender"] == "ada@example.com"
    assert rows[3]["subject"] == "(none)"


def test_the_splits_on_the_extend_page_are_planned_read_at_once_and_keep_the_contract(
    tmp_path: Path,
):
    for where, title, text in (*blocks("python"), *blocks("yaml")):
        if where.startswith("docs/extend.md") and title:
            (tmp_path / title).write_text(text)
    flow = (tmp_path / "mail.yaml").read_text().replace("type: mbox,", "type: mbox_by_month,")
    (tmp_path / "mail.yaml").write_text(flow + "settings: {parallelism: 3}\n")
    script = (tmp_path / "run_mail.py").read_text()
    script = script.replace(
        "import MboxSource", "import MboxSource\nfrom dataflare_months import *"
    )
    script = script.replace("register(MboxSource)", "register(MonthlyMboxSource)")
    (tmp_path / "run_mail.py").write_text(script.replace('["run"', "[sys.argv[1]"))
    box = mailbox.mbox(tmp_path / "inbox.mbox")
    for day in range(60):
        message = mailbox.mboxMessage()
        sent = datetime(2024, 1, 20, 12, tzinfo=UTC) + timedelta(days=day)
        message["From"], message["Date"] = "ada@example.com", format_datetime(sent)
        box.add(message)
    box.flush()
    said = {}
    for command in (
        ["run_mail.py", "plan"],
        ["run_mail.py", "run"],
        ["-m", "pytest", "-q", "test_months.py"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "DATAFLARE_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said[command[1]] = done.stdout
    assert "3 splits by month of sent_at" in said["plan"]
    import dbm.dumb

    with dbm.dumb.open(str(tmp_path / "kept"), "r") as kept:
        assert sorted(int(key) for key in kept) == list(range(60))


def test_the_step_on_the_extend_page_runs_and_keeps_the_contract(tmp_path: Path):
    for where, title, text in (*blocks("python"), *blocks("yaml")):
        if where.startswith("docs/extend.md") and title:
            (tmp_path / title).write_text(text)
    done = dataflare("run", "gaps.yaml", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["meter"], row["gap"]) for row in rows] == [("a", None), ("b", None), ("a", 6)]
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_gaps.py", "test_means.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout


def test_every_setting_is_documented():
    generate = module("generate")
    from dataflare.workflow.settings import ErrorHandling, EventTime, Settings

    page = (DOCS / "reference/settings.md").read_text()
    rows = [
        row[0]
        for model in (Settings, ErrorHandling, EventTime)
        for row in generate.option_rows(model.model_json_schema())
    ]
    assert [name for name in rows if name not in page] == []


def test_every_option_of_a_connector_and_a_step_says_what_it_means():
    generate = module("generate")
    from dataflare.operators import registry as steps
    from dataflare.sdk import registry

    models = {
        **{f"source {t}": registry.source(t).Config for t in registry.source_types()},
        **{
            f"destination {t}": registry.destination(t).Config for t in registry.destination_types()
        },
        **{f"step {t}": steps.step(t).Config for t in steps.step_types()},
    }
    silent = []
    for where, model in models.items():
        rows = list(generate.option_rows(model.model_json_schema()))
        explained = {row[0].rpartition(".")[0].strip("`[]") for row in rows}
        silent += [
            f"{where}: {name}"
            for name, _, _, text in rows
            if not text and name.strip("`") not in explained
        ]
    assert silent == []


def test_html_with_markdown_in_it_has_its_extension():
    """Cards of the home page are Markdown in HTML: without the extension they are plain text."""
    asking = [
        page for page in DOCS.rglob("*.md") if re.search(r"<\w+[^>]* markdown", page.read_text())
    ]
    assert asking
    assert "\n  - md_in_html\n" in (DOCS.parent / "mkdocs.yml").read_text()
