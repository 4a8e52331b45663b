"""`rlm image`: the sandbox image."""

from __future__ import annotations

from typing import Annotated

import typer

image = typer.Typer(no_args_is_help=True, help="The sandbox image.")


@image.command("build")
def build(
    extra: Annotated[
        str | None,
        typer.Option(metavar="PACKAGES", help='more packages, as in --extra "numpy pandas"', show_default="as before"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="build even if the right image is there")] = False,
) -> None:
    """Build the image that sandboxes are made of, if this version's is not there yet.

    Exit status: 0 it is there, 2 there is no engine, or it cannot be built.
    """
    from rlm.sandbox.docker.build import ensure_image, say
    from rlm.sandbox.docker.image import image_name

    built = ensure_image(extra, force=force)
    say(f"The image {image_name()} is {'ready' if built else 'up to date'}.")
