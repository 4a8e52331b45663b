"""`rlm image`: the sandbox image."""

from __future__ import annotations

from typing import Annotated

import typer

image = typer.Typer(no_args_is_help=True, help="Manage the sandbox image.")


@image.command("build")
def build(
    extra: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGES",
            help='Extra packages, such as "numpy pandas" (default: those of the current image)',
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the image is up to date")] = False,
) -> None:
    """Build the image of the sandboxes, unless it is up to date.

    Exit status: 0 up to date, 2 no Docker engine, or the build failed.
    """
    from rlm.sandbox.docker.build import ensure_image, print_progress
    from rlm.sandbox.docker.image import image_name

    built = ensure_image(extra, force=force)
    print_progress(f"The image {image_name()} is {'ready' if built else 'up to date'}.")
