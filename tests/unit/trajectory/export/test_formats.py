"""`rlm export` writes to standard output or to a private file; each error is one sentence."""

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


def test_an_exported_file_is_private_to_the_user(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", "atif", "-o", str(file)])
    assert json.loads(file.read_text())["session_id"] == run_dir.name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_unknown_format_is_a_usage_error(run_dir: Path) -> None:
    assert CliRunner().invoke(cli.app, ["export", str(run_dir), "--to", "pdf"]).exit_code == 2


def test_an_unwritable_file_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out"):
        write_private_file(tmp_path / "none" / "run.json", "text")


def test_without_opentelemetry_spans_are_an_error_of_one_sentence_and_other_formats_work(
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
