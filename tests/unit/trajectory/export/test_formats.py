"""`rlm export` writes to standard output or to a private file, and says in one sentence what it cannot do."""

import json
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlm import cli
from rlm.errors import ConfigError
from rlm.trajectory.output import write_private_file


@pytest.mark.parametrize(
    ("name", "begins"), [("atif", '{\n "schema_version"'), ("rlms", '{"type": "metadata"'), ("md", "# Run `")]
)
def test_a_run_is_written_to_standard_output(name: str, begins: str, run_dir: Path) -> None:
    done = CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", name])
    assert done.exit_code == 0
    assert done.stdout.startswith(begins)


def test_a_file_is_for_this_user_alone(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", "atif", "-o", str(file)])
    assert json.loads(file.read_text())["session_id"] == run_dir.name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_format_that_is_not_there_is_refused(run_dir: Path) -> None:
    assert CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", "pdf"]).exit_code == 2


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out"):
        write_private_file(tmp_path / "none" / "run.json", "text")


def test_without_the_extra_spans_are_one_sentence_and_all_else_is_there(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("rlm.otel", "rlm.trajectory.export.otlp"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("opentelemetry.trace", "google.protobuf.json_format"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", "otel"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == "OpenTelemetry is not installed: pip install 'rlm[otel]'."
    assert CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", "md"]).exit_code == 0
