"""The entry point: load a Workflow from a file and the options of the command line.

Order: read and include, environment, overlays, `--set`; parameters; variables; the form; the graph. All
errors that can be found in one pass are raised together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflare.errors import DataFlareError, raise_all
from dataflare.observability.own_notifiers import secrets_of
from dataflare.security.literals import literal_secrets
from dataflare.security.redact import remember_secret
from dataflare.security.secrets import SecretProvider, default_secrets
from dataflare.workflow.bind import bind
from dataflare.workflow.build import TOP_KEYS, build
from dataflare.workflow.merge import (
    FileReader,
    apply_sets,
    check_environments,
    merged,
    with_environment,
)
from dataflare.workflow.model import Workflow
from dataflare.workflow.nodes import SpotMap, key_spot_of
from dataflare.workflow.params import parameters
from dataflare.workflow.variables import Substitution

__all__ = ["bind", "load", "load_text"]


def load(
    path: str | Path,
    *,
    params: Mapping[str, Any] | None = None,
    sets: Sequence[tuple[str, str] | str] = (),
    overlays: Sequence[str | Path] = (),
    environment: str | None = None,
    environ: Mapping[str, str] | None = None,
    secrets: SecretProvider | None = None,
) -> Workflow:
    """The workflow in a file. Raises WorkflowError, PlanError, or ManyErrors.

    params: values by name, as text or typed. sets: (dotted path, YAML text) or `path=text`, set after
    all merging. overlays: files merged over this one, in order; their paths are relative to the working
    directory. environment: the one of the file's `environments` that is merged over the file, before
    the overlays.
    """
    loader = _Loader(environ, secrets)
    file_path = Path(path)
    tree = loader.reader.read(file_path, shown=str(path))
    return loader.finish(
        tree, params, sets, overlays, environment, file=file_path, base=file_path.parent
    )


def load_text(
    text: str,
    *,
    file: str = "<text>",
    base: str | Path = Path(),
    params: Mapping[str, Any] | None = None,
    sets: Sequence[tuple[str, str] | str] = (),
    overlays: Sequence[str | Path] = (),
    environment: str | None = None,
    environ: Mapping[str, str] | None = None,
    secrets: SecretProvider | None = None,
) -> Workflow:
    """The workflow in a text. file: its name in errors. base: the folder of relative paths."""
    loader = _Loader(environ, secrets)
    tree = loader.reader.tree(text, file, Path(base))
    return loader.finish(tree, params, sets, overlays, environment, file=None, base=Path(base))


class _Loader:
    def __init__(self, environ: Mapping[str, str] | None, secrets: SecretProvider | None) -> None:
        self.environ = os.environ if environ is None else environ
        self.secrets = default_secrets(self.environ) if secrets is None else secrets
        self.errors: list[DataFlareError] = []
        self.early = Substitution(self.environ, self.secrets, self.errors)
        """For values that are needed before the parameters: their defaults, and includes."""
        self.reader = FileReader(self.errors, self.early)

    def finish(
        self,
        tree: SpotMap,
        params: Mapping[str, Any] | None,
        sets: Sequence[tuple[str, str] | str],
        overlays: Sequence[str | Path],
        environment: str | None = None,
        *,
        file: Path | None,
        base: Path,
    ) -> Workflow:
        tree = self.over(tree, overlays, environment)
        tree = apply_sets(tree, sets, self.errors)
        declared = self.early(tree.get("params"))
        place = key_spot_of(tree, "params")
        known_params = parameters(declared, place, params or {}, self.errors)
        late = Substitution(self.environ, self.secrets, self.errors, known_params)
        values = late(tree.without("params"))
        if "params" in tree:
            values.put("params", declared, place, None)
        secrets_seen = frozenset(self.early.secrets | late.secrets)
        masked = frozenset(
            (*secrets_seen, *literal_secrets(values), *secrets_of(values.get("notifiers")))
        )
        for secret in masked:
            remember_secret(secret)
        workflow = build(
            values,
            params={name: param for name, param in known_params.items() if param is not None},
            file=file,
            base=base,
            secrets=secrets_seen,
            masked=masked,
            errors=self.errors,
        )
        raise_all(sorted(self.errors, key=_order))
        assert workflow is not None
        return workflow

    def over(
        self, tree: SpotMap, overlays: Sequence[str | Path], environment: str | None
    ) -> SpotMap:
        """The tree with an environment and overlays merged over it. An overlay may add environments."""
        overlay_trees = [
            self.reader.read(Path(overlay), shown=str(overlay)) for overlay in overlays
        ]
        for each in [tree, *overlay_trees]:
            check_environments(each, TOP_KEYS, self.errors)
            if (environments := each.get("environments")) is not None and each is not tree:
                lower_environments = tree.get("environments")
                joined = environments
                if isinstance(lower_environments, SpotMap) and isinstance(environments, SpotMap):
                    joined = merged(lower_environments, environments)
                tree = tree.without()
                tree.take(each, "environments", joined)
        merged_tree = with_environment(tree, environment)
        for each in overlay_trees:
            merged_tree = merged(merged_tree, each.without("environments"))
        merged_tree.spot = tree.spot
        return merged_tree


def _order(error: DataFlareError) -> tuple[str, int, int]:
    """The sort key for errors in the order of the file. Errors of the command line come first."""
    spot = error.spot
    return (spot.file, spot.line, spot.column) if spot else ("", 0, 0)
