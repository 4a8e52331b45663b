"""`rlm doctor --server`: tests a model server, and says which settings to use."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from typing import TYPE_CHECKING

import typer

from rlm.errors import ConfigError

from .checks import Finding

if TYPE_CHECKING:
    from rlm.cli.conformance.advice import Advice
    from rlm.models.openai import OpenAIModel


def test_server(server: str, name: str | None, *, key_from: str, long: bool, as_json: bool, quiet: bool) -> None:
    """Ask the questions, show the verdicts and the settings. Raises Exit(1) if rlm cannot use the server.

    Args:
        server: the base URL.
        name: the model; None is that of the settings, else the server's only one.
        key_from: the variable with the key.
        long: whether to ask about long prompts.
        as_json: print one JSON value.
        quiet: print problems and the settings only.
    """
    import anyio

    from rlm._util.text import printable
    from rlm.cli.conformance.advice import advise
    from rlm.cli.conformance.suite import REQUEST_SECONDS, Suite, cost_note
    from rlm.cli.output import write_json
    from rlm.models.openai import OpenAIModel

    from .doctor import show_finding

    logging.getLogger("rlm").setLevel(logging.ERROR)  # findings include its warnings

    def client(model: str) -> OpenAIModel:
        return OpenAIModel(
            model, base_url=server, api_key=_key(key_from), timeout=REQUEST_SECONDS, max_retries=0, rate_limit_seconds=0
        )

    async def work() -> tuple[Suite, list[Finding]]:
        model = client(name or await _only_model(client("-")))
        suite, findings = Suite(model, long=long), []
        if not (as_json or quiet):
            typer.echo(f"Model {printable(model.name)} at {printable(model.base_url)}")
            typer.echo(f"{cost_note(long=long)}\n")
        try:
            async for part, verdict in suite.run():
                findings.append(Finding(part=part, state=verdict.state, text=verdict.text))
                if not as_json and (verdict.state == "problem" or not quiet):
                    show_finding(findings[-1])
        finally:
            await model.aclose()
        return suite, findings

    suite, findings = anyio.run(work)
    usable = not any(finding.state == "problem" for finding in findings)
    advice = advise(suite.known, base_url=suite.model.base_url, model=suite.model.name) if usable else None
    input_tokens, output_tokens = suite.tokens
    if as_json:
        write_json(
            {
                "server": suite.model.base_url,
                "model": suite.model.name,
                "findings": list(map(dataclasses.asdict, findings)),
                "settings": None if advice is None else _as_json(advice),
                "usage": {
                    "requests": len(suite.answers), "input_tokens": input_tokens, "output_tokens": output_tokens
                },
            }
        )  # fmt: skip
    elif advice is not None:
        _show_advice(advice)
        if not quiet:
            counted = f"{input_tokens:,} input and {output_tokens:,} output tokens" if input_tokens else "no counts"
            typer.echo(f"\n{len(suite.answers)} requests, {counted}.")
    elif not quiet:
        typer.echo("\nrlm cannot run with this server and model.")
    if not usable:
        raise typer.Exit(1)


def _key(variable: str) -> str:
    """The key in a variable, in the environment or .env; empty if it is unset."""
    from rlm.models.settings import Settings

    if variable in os.environ:
        return os.environ[variable]
    settings = Settings()
    known = {"OPENAI_API_KEY": settings.openai_api_key, "RLM_SUB_API_KEY": settings.sub_api_key}
    if variable not in known:
        raise ConfigError(f"Invalid --key-from {variable!r}: this variable is not set.")
    key = known[variable]
    return "" if key is None else key.get_secret_value()


async def _only_model(model: OpenAIModel) -> str:
    """The model of the settings, else the only one that the server lists.

    Raises:
        ConfigError: there is no such model.
        ModelError: the server gives no answer.
    """
    from rlm.cli.settings import load_settings
    from rlm.models.window import listed_names

    settings = load_settings()
    try:
        if "model" in settings.model_fields_set:
            return settings.model
        response = await model.exchange("/models")
    finally:
        await model.aclose()
    names = listed_names(response.body) if response.status == 200 else []
    if len(names) != 1:
        listed = f" The server lists: {', '.join(names[:10])}." if names else ""
        raise ConfigError(f"Missing model: name it with --model.{listed}")
    return names[0]


def _as_json(advice: Advice) -> dict[str, object]:
    return {
        "model_options": dict(advice.options),
        "max_concurrent_calls": advice.max_concurrent,
        "environment": advice.environment,
        "toml": advice.toml,
        "python": advice.python,
    }


def _show_advice(advice: Advice) -> None:
    from rlm._util.text import printable

    for title, lines in (
        ("Settings to use, in .env (in a shell, with `export`):", advice.environment),
        ("or in rlm.toml, with OPENAI_BASE_URL as above:", advice.toml),
        ("or in Python:", advice.python),
    ):
        sys.stdout.write(f"\n{title}\n\n")
        sys.stdout.writelines(f"    {printable(line)}".rstrip() + "\n" for line in lines)
