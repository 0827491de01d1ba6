"""What ``graphprop page`` prints."""

from __future__ import annotations

from pathlib import Path

from graphprop.artifact.manifest import read_manifest
from graphprop.checking.web import allowed_apart
from graphprop.cli import console
from graphprop.web.site import Site, build_site


def run_page(
    as_json: bool,
    *,
    directory: Path,
    output: Path,
    title: str | None,
    examples: tuple[Path, ...],
    runtime: Path | None,
    no_webgpu: bool,
    no_try: bool,
    force: bool,
) -> None:
    """Write the site of a compiled directory, and print what it needs."""
    with console.progress("read the explainer") as progress:
        site = build_site(
            directory,
            output,
            allowed=allowed_apart(read_manifest(directory)),
            title=title,
            examples=examples,
            runtime=runtime,
            webgpu=not no_webgpu,
            browser=not no_try,
            force=force,
            say=progress,
        )
    for warning in site.warnings:
        console.say_warning(warning)
    if as_json:
        console.say_json("page", as_content(site))
    else:
        describe(site)


def as_content(site: Site) -> dict[str, object]:
    """What was written, for ``--json``."""
    return {
        "site": site.folder,
        "bytes": site.size,
        "bytes_visit": site.visit,
        "memory": site.trial.memory,
        "seconds_native": site.trial.seconds,
        "browser_error": site.trial.in_browser,
        "browser_untried": site.trial.untried,
        "warnings": site.warnings,
    }


def describe(site: Site) -> None:
    """Print what was written."""
    trial = site.trial
    console.say(
        f"{site.folder}: {mega(site.size)} MB, of which a visitor loads {mega(site.visit)} MB "
        "(more where there is WebGPU)"
    )
    console.say(
        f"a map takes {1000 * trial.seconds:.3g} ms and {mega(trial.memory)} MB of memory in ONNX "
        "Runtime here, with one thread"
    )
    if trial.in_browser is None:
        console.say(f"not tried in a browser: {trial.untried}")
    else:
        console.say(f"tried in Chromium: off by {trial.in_browser:.1e} from ONNX Runtime's map")
    console.say(f"\nTo look at it: python -m http.server -d {site.folder}")


def mega(count: int) -> str:
    """Bytes as MB."""
    return f"{count / 1e6:.3g}"
