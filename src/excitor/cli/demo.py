"""``excitor demo``: the whole method on the embedded base, without any download."""

from pathlib import Path
from typing import Annotated

import typer

from excitor.arguments import LARGEST_SEED, check_writable
from excitor.errors import ExcitorError


EXAMPLES = """\b
Examples:
  excitor demo
  excitor demo --seed 1 --out runs/demo-1
  excitor demo --vision
  excitor demo --export world"""


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for adapter, data, demo.json and demo.png; runs/demo, or runs/demo-vision, if left out."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Which half of the world, or of the scenes, is taught, and the order of training.",
        ),
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; enough for good numbers if left out.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Only write the world's instructions and retention text to this folder.")
    ] = None,
    vision: Annotated[
        bool,
        typer.Option("--vision", help="Teach a tiny model to see instead: drawn scenes and real handwritten digits."),
    ] = False,
) -> None:
    """Teach a tiny embedded model to follow instructions, and show what it learned and what it kept."""
    if export is not None:
        if vision:
            raise ExcitorError(
                "--export writes the world of the demo without --vision, whose pictures are drawn as it runs: "
                "leave one out."
            )
        if idle := [name for name, value in (("--out", out), ("--steps", steps)) if value is not None]:
            raise ExcitorError(f"{' and '.join(idle)} would do nothing: --export trains nothing. Leave one out.")
        check_writable(export, "--export")
        _export(export, seed)
        return
    out = out or Path("runs/demo-vision" if vision else "runs/demo")
    check_writable(out)
    if vision:
        from excitor.mini.vision.demo import VISION_STEPS, run_vision_demo

        run_vision_demo(seed=seed, steps=steps or VISION_STEPS, out=out)
        return
    from excitor.mini.demo import STEPS, run_demo

    run_demo(seed=seed, steps=steps or STEPS, out=out)


def _export(folder: Path, seed: int) -> None:
    from excitor.mini import BASE_DIR
    from excitor.mini.lessons import make_lessons, write_lessons
    from excitor.mini.world import make_world

    world = make_world()
    write_lessons(world, make_lessons(world, seed), folder)
    typer.echo(
        f"Wrote train.jsonl, heldout.jsonl and retain.jsonl to {folder}. Train on them with\n"
        f"  excitor train --model {BASE_DIR} --data {folder / 'train.jsonl'} --retain {folder / 'retain.jsonl'} "
        "--out runs/world"
    )
