"""An evaluation repeats no finished instance, loses no written row, and reports from its rows alone."""

import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from rlm.errors import ConfigError, ContextTooLong, EngineUnavailable, ModelError
from rlm.evals import harness
from rlm.evals.harness import run_jobs
from rlm.evals.methods.base import MethodContext, MethodOutcome
from rlm.evals.methods.keyword import keyword
from rlm.evals.methods.plain import direct, map_reduce
from rlm.evals.plan import Plan, parse_lengths
from rlm.evals.progress import Progress
from rlm.evals.registry import load_tasks
from rlm.evals.report import plots
from rlm.evals.report.comparison import differences
from rlm.evals.report.report import markdown
from rlm.evals.results import Job, JobKey, ResultRow, Results
from rlm.evals.scorers import score
from rlm.evals.task import Instance
from rlm.models.scripted import ScriptedModel
from rlm.types import Message, Usage

pytestmark = pytest.mark.anyio

PLAN = Plan(tasks=("ruler/single_1", "ruler/multikey_1"), methods=("keyword",), lengths=(1024, 2048), n=3)
CONTEXT = MethodContext(models=PLAN.models())


class Counting:
    """A method that answers correctly, or raises for some indices. The first `together` instances wait for each other."""

    def __init__(self, *failing: int, error: Exception | None = None, together: int = 1) -> None:
        self.together = together
        self.met = anyio.Event()
        self.failing = failing
        self.error = error or ModelError("the provider is down")
        self.asked: list[tuple[str, int]] = []
        self.at_once = self.most = 0

    async def __call__(self, instance: Instance, ctx: MethodContext, folder: Path) -> MethodOutcome:
        self.asked.append((instance.task, instance.index))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.at_once >= self.together:
            self.met.set()
        await self.met.wait()
        await anyio.sleep(0.002)  # time for one too many to start
        self.at_once -= 1
        if instance.index in self.failing:
            raise self.error
        usage = Usage(calls=1, input_tokens=10, output_tokens=2, cost_usd=0.01)
        return MethodOutcome(answer=", ".join(instance.answers), usage=usage, by_node={"0": usage})


async def evaluate(
    method: Counting, results: Results, monkeypatch: pytest.MonkeyPatch, *, most: int = 2
) -> list[ResultRow]:
    monkeypatch.setattr(harness, "find_method", lambda name: method)
    return await run_jobs(PLAN.jobs(), ctx=CONTEXT, results=results, max_concurrent=most)


def created(folder: Path, plan: Plan = PLAN) -> Results:
    return Results.create(folder, plan.to_settings())


async def test_every_instance_becomes_a_row_of_all_that_it_gave_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Counting()
    rows = await evaluate(method, created(tmp_path), monkeypatch)
    assert len(rows) == 12
    assert len(Results.load(tmp_path).rows) == 12
    for row in rows:
        assert (row.strict, row.calls, row.cost_usd, row.by_node) == (1.0, 1, 0.01, {"0": (1, 10, 2, 0.01)})
        assert len(row.digest) == 64
        assert row.error == ""


async def test_finished_instances_are_kept_and_failed_ones_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await evaluate(Counting(1), created(tmp_path), monkeypatch)
    assert sorted(row.index for row in rows if row.error) == [1] * 4
    again = Counting()
    await evaluate(again, Results.load(tmp_path), monkeypatch)
    assert sorted(again.asked) == sorted([("ruler/multikey_1", 1), ("ruler/single_1", 1)] * 2)
    results = Results.load(tmp_path)
    assert len(results.rows) == 12
    assert not any(row.error for row in results.rows.values())


async def test_an_evaluation_cut_off_anywhere_resumes_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evaluate(Counting(), created(tmp_path / "whole"), monkeypatch)
    whole = (tmp_path / "whole" / "results.jsonl").read_bytes()
    for cut in range(1, len(whole), len(whole) // 7):
        folder = tmp_path / str(cut)
        created(folder)
        (folder / "results.jsonl").write_bytes(whole[:cut])
        again = Counting()
        await evaluate(again, Results.load(folder), monkeypatch)
        assert len(again.asked) == 12 - whole[:cut].count(b"\n")
        ours, theirs = Results.load(folder), Results.load(tmp_path / "whole")
        assert {key: _without_times(row) for key, row in ours.rows.items()} == {
            key: _without_times(row) for key, row in theirs.rows.items()
        }


def _without_times(row: ResultRow) -> ResultRow:
    return replace(row, seconds=0.0)


async def test_no_more_instances_are_in_progress_at_once_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Counting(together=3)
    await evaluate(method, created(tmp_path), monkeypatch, most=3)
    assert len(method.asked) == 12
    assert method.most == 3


async def test_without_an_engine_no_further_instance_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Counting(0, 1, 2, error=EngineUnavailable("no engine"))
    rows = await evaluate(method, created(tmp_path), monkeypatch, most=1)
    assert len(method.asked) == len(rows) == 1


async def test_a_configuration_error_is_raised_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no key"):
        await evaluate(Counting(0, error=ConfigError("no key")), created(tmp_path), monkeypatch)


async def test_an_instance_that_cannot_be_made_fails_alone_and_for_nothing(tmp_path: Path) -> None:
    def impossible() -> Instance:
        raise ConfigError("No question can be asked")

    one, *others = PLAN.jobs()
    jobs = [replace(one, make=impossible), *others]
    await run_jobs(jobs, ctx=CONTEXT, results=created(tmp_path), max_concurrent=2)
    rows = Results.load(tmp_path).rows
    assert (rows[one.key].error, rows[one.key].cost_usd) == ("ConfigError: No question can be asked", 0.0)
    assert [key for key, row in rows.items() if row.error] == [one.key]
    assert len(rows) == 12


async def test_the_report_is_a_function_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await evaluate(Counting(2), created(tmp_path), monkeypatch, most=3)
    text = markdown(Results.load(tmp_path))
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("".join(line + "\n" for line in reversed(lines)))
    assert markdown(Results.load(tmp_path)) == text
    assert "**ruler/single_1**" in text
    assert "Total: $0.08. It excludes 4 of 12 answers, whose cost is unknown." in text
    assert "| keyword | 0.67 [0.21, 0.94] n=3 | 0.67 [0.21, 0.94] n=3 |" in text  # a failure counts as 0
    assert "keyword on ruler/multikey_1, 2k, instance 2: ModelError: the provider is down" in text


async def test_a_row_is_on_disk_before_its_slot_goes_to_the_next_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Counting()
    monkeypatch.setattr(harness, "find_method", lambda name: method)
    written: list[int] = []

    def count_rows(key: JobKey) -> None:
        written.append(len((tmp_path / "results.jsonl").read_text().splitlines()))

    await run_jobs(PLAN.jobs(), ctx=CONTEXT, results=created(tmp_path), max_concurrent=1, on_start=count_rows)
    assert written == list(range(12))


def _reported(folder: Path, *rows: ResultRow) -> str:
    return markdown(Results(folder=folder, settings=PLAN.to_settings(), rows={row.key: row for row in rows}))


def _rows(count: int, **given: Any) -> list[ResultRow]:
    fields: dict[str, Any] = {"task": "t", "length": 1024, "seed": 7, "method": "rlm:1", "strict": 1.0} | given
    return [ResultRow(**{"index": index} | fields) for index in range(count)]


def test_a_report_shows_what_limits_stopped_and_which_calls_failed(tmp_path: Path) -> None:
    one, *others = _rows(5, stop_reason="max_iterations", sub_calls=6)
    text = _reported(tmp_path, replace(one, failed_calls=4, strict=0.25), *others)
    assert "| 4 | 5 of 5 |" in text
    assert "- rlm:1 on t, 5 of 5: stopped by a limit (max_iterations)" in text
    assert "Answers with failed sub-calls: 1 (see below)." in text
    assert "- rlm:1 on t, 1k, instance 0: 4 of 6 sub-calls failed, score 0.25" in text
    assert "Failed calls" not in _reported(tmp_path, *others)


def test_times_exclude_resumed_runs_and_costs_have_percentiles_and_a_sum(tmp_path: Path) -> None:
    rows = [replace(row, seconds=10.0 + row.index, cost_usd=1.0 + row.index) for row in _rows(3)]
    text = _reported(tmp_path, *rows, *_rows(1, index=9, seconds=0.01, resumed=True, cost_usd=None))
    assert "Total: $6. It excludes 1 of 4 answers, whose cost is unknown. Times exclude resumed runs (1)." in text
    assert "| t | rlm:1 | 1k | $2 | $2 | $2.9 | 11.00 | 11.90 |" in text
    assert "| unknown | unknown |" in _reported(tmp_path, *_rows(2, resumed=True))


def test_contexts_cut_to_many_sizes_are_one_note(tmp_path: Path) -> None:
    rows = [
        replace(
            row,
            method="direct",
            note=f"context truncated to about {6_900 + 100 * row.index:,} of 8,0{row.index}0 tokens",
        )
        for row in _rows(3)
    ]
    text = _reported(tmp_path, *rows, *_rows(1, method="direct", index=9))
    assert "- direct on t, 3 of 4: context truncated to about 6,900 to 7,100 of 8,000 to 8,020 tokens" in text


def test_a_live_table_has_a_line_for_lengths_that_are_reported_as_one() -> None:
    keys = [JobKey("user/mine", length, 0, index, "direct") for index, length in enumerate((900, 1000, 1024, 1025))]
    jobs = [Job(key=key, make=lambda: instance("")) for key in keys]
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = Progress(jobs, _rows(1, task="user/mine", length=900, index=0, method="direct"), console=console)
    progress.start(keys[1])
    console.print(progress.render())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split()[1:6] for line in shown.splitlines()[1:]] == [
        ["1k", "direct", "1", "of", "3"],
        ["2k", "direct", "0", "of", "1"],
    ]


def test_pictures_of_seven_methods_on_all_tasks_fit_on_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[float, float]] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, file, **options: sizes.append(figure.get_size_inches())
    )
    ways = ("direct", "map_reduce", "keyword", "rlm:0", "rlm:1", "rlm:2", "rlm:3")
    plots.draw(
        [replace(row, task=task, method=way) for task in load_tasks() for way in ways for row in _rows(1)], tmp_path
    )
    assert len(sizes) == 2
    for width, height in sizes:
        assert height / width < 297 / 160  # of A4, with margins


def test_texts_of_models_break_no_table(tmp_path: Path) -> None:
    results = created(tmp_path)
    row = ResultRow(task="ruler/single_1", length=1024, seed=7, index=0, method="keyword", note="a | b\n<script>\x1b")
    text = markdown(replace(results, rows={row.key: row}))
    assert "a \\| b &lt;script>\\\\x1b" in text


def _with_scores(
    folder: Path,
    scores: Sequence[float],
    *more: tuple[str, str, Sequence[float]],
    digest: str = "d",
    way: str = "keyword",
) -> Results:
    """An evaluation with these scores of one method on a task `t`, and those of `more`: (task, method, scores)."""
    results = created(folder)
    rows = [
        ResultRow(task=task, length=1, seed=7, index=index, method=method, strict=score, lax=score, digest=digest)
        for task, method, some in [("t", way, scores), *more]
        for index, score in enumerate(some)
    ]
    return replace(results, rows={row.key: row for row in rows})


def test_a_comparison_reports_the_difference_or_that_it_is_not_significant(tmp_path: Path) -> None:
    worse, better = _with_scores(tmp_path / "a", [0.0] * 20), _with_scores(tmp_path / "b", [1.0] * 15 + [0.0] * 5)
    line = _line(worse, better)
    assert line.startswith("t, keyword: the second is better by +0.750, p = 6.1e-05, 20 pairs")
    assert "worse by -0.750" in _line(better, worse)
    slightly = _with_scores(tmp_path / "c", [1.0] + [0.0] * 19)
    assert "t, keyword: not significant: +0.050" in _line(worse, slightly)
    assert "detecting this difference takes about" in _line(worse, slightly)
    assert "no difference found: +0.000, p = 1, 20 pairs" in _line(worse, worse)
    other = _with_scores(tmp_path / "d", [1.0] * 20, way="direct")
    assert _line(worse, other).startswith("t, keyword vs direct: the second is better by +1.000")


def _line(first: Results, second: Results) -> str:
    (found,) = differences(first, second)
    return str(found)


def test_opposite_effects_on_two_methods_do_not_cancel(tmp_path: Path) -> None:
    none, all_right = [0.0] * 20, [1.0] * 20
    one = _with_scores(tmp_path / "a", none, ("t", "rlm:1", all_right), ("u", "rlm:1", none))
    other = _with_scores(tmp_path / "b", all_right, ("t", "rlm:1", none), ("u", "rlm:1", none))
    lines = [str(found) for found in differences(one, other)]
    assert [line.partition(" by ")[0].partition(": +")[0] for line in lines] == [
        "t, keyword: the second is better",
        "t, rlm:1: the second is worse",
        "u, rlm:1: no difference found",
        "all tasks, rlm:1: the second is worse",
    ]
    assert "by -0.500 [-0.650, -0.350], p = 7.6e-06 (adjusted for 4 comparisons), 40 pairs" in lines[-1]
    assert [found.method for found in differences(one, other, method="keyword")] == ["keyword"]


def test_a_difference_on_one_of_many_tasks_is_judged_as_one_of_many(tmp_path: Path) -> None:
    """On its own, six of six would be significant."""
    same = [(f"t{number}", "keyword", [0.0] * 6) for number in range(16)]
    line = str(
        next(
            differences(_with_scores(tmp_path / "a", [0.0] * 6, *same), _with_scores(tmp_path / "b", [1.0] * 6, *same))
        )
    )
    assert "not significant" in line or "no difference" in line
    assert "p = 0.56 (adjusted for 18 comparisons)" in line
    assert "the second is better" in _line(
        _with_scores(tmp_path / "c", [0.0] * 6), _with_scores(tmp_path / "d", [1.0] * 6)
    )


def test_evaluations_of_other_data_are_not_compared(tmp_path: Path) -> None:
    one, other = _with_scores(tmp_path / "a", [0.0]), _with_scores(tmp_path / "b", [0.0], digest="e")
    with pytest.raises(ConfigError, match="differs between the evaluations"):
        list(differences(one, other))
    with pytest.raises(ConfigError, match="no instances in common"):
        list(differences(one, replace(other, rows={})))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(), "No task given"),
        (Plan(tasks=("nonsense",)), "Unknown task 'nonsense'"),
        (replace(PLAN, methods=("rlm",)), "Unknown method 'rlm'"),
        (Plan(tasks=("multihop",)), "does not support the task `multihop`. Choose a model with --model"),
        (replace(PLAN, methods=("direct",)), "does not support the method `direct`. Choose a model with --model"),
        (
            replace(PLAN, max_cost_usd=0.0),
            r"^Invalid --max-cost-usd 0\.0: use a number above 0, or omit the option",
        ),
        (replace(PLAN, max_cost_usd=float("nan")), "^Invalid --max-cost-usd nan"),
        (replace(PLAN, max_iterations=0), "^Invalid --max-iterations 0"),
    ],
)
def test_an_invalid_plan_is_refused_before_anything_is_created(plan: Plan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan.check()


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = replace(
        PLAN, files=(("data", "/some/file"),), trec="/t", window=100, facts=3, indices={"seed_niah/facts": [3]}
    )
    assert Plan.from_settings(json.loads(json.dumps(plan.to_settings()))) == plan
    with pytest.raises(ConfigError, match=r"^eval\.json contains no plan\."):
        Plan.from_settings({})


def test_lengths_are_written_as_people_do() -> None:
    assert parse_lengths(["8k,32k", "1M", "500"]) == (8192, 32768, 1 << 20, 500)
    with pytest.raises(ConfigError, match="Invalid length"):
        parse_lengths(["8q"])


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    created(tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        created(tmp_path)
    with pytest.raises(ConfigError, match="No evaluation found"):
        Results.load(tmp_path / "none")


# Methods


def instance(context: str, query: str = "What is the magic number?") -> Instance:
    return Instance(task="t", length=1, seed=1, index=0, context=context, query=query, answers=("1",), scorer="recall")


def means_with(root: ScriptedModel, sub: ScriptedModel | None = None, **options: int) -> MethodContext:
    return MethodContext(models=lambda task: (root, sub or root), **options)  # type: ignore[arg-type]


async def test_direct_truncates_the_middle_of_a_context_too_long_for_the_window_and_says_so(tmp_path: Path) -> None:
    seen: list[str] = []

    def reply(messages: Sequence[Message]) -> str:
        seen.append(messages[-1].content)
        return "answer"

    text = "start " + "word " * 50_000 + "end"
    done = await direct(instance(text), means_with(ScriptedModel(reply), window=10_000), tmp_path)
    assert done.note.startswith("context truncated to about ")
    assert seen[0].startswith("start ")
    assert "characters left out here" in seen[0]
    assert "end\n\nWhat is the magic number?" in seen[0]
    assert len(seen[0]) < 50_000
    whole = await direct(instance("short"), means_with(ScriptedModel(reply), window=10_000), tmp_path)
    assert whole.note == ""


async def test_map_reduce_reads_every_line_once_and_answers_from_the_notes(tmp_path: Path) -> None:
    lines = [f"line {number} of the text" for number in range(20_000)]
    read: list[str] = []

    def sub(messages: Sequence[Message]) -> str:
        piece = messages[-1].content.partition("\n\nThe text above is part")[0]
        read.extend(piece.splitlines())
        return "the magic is 4711" if "line 15000 " in piece else "NONE"

    root = ScriptedModel(lambda messages: "4711" if "the magic is 4711" in messages[-1].content else "no", name="root")
    done = await map_reduce(instance("\n".join(lines)), means_with(root, ScriptedModel(sub, name="sub")), tmp_path)
    assert sorted(read) == sorted(lines)
    assert done.answer == "4711"
    assert done.usage.calls == done.sub_calls + 1 == len(done.by_node) > 2


async def test_a_call_that_fails_fails_a_map_reduce_with_its_own_error(tmp_path: Path) -> None:
    def fails(messages: Sequence[Message]) -> str:
        raise ModelError("down")

    with pytest.raises(ModelError, match="down"):
        await map_reduce(instance("text " * 100_000), means_with(ScriptedModel(fails)), tmp_path)


async def test_keyword_finds_answers_that_need_no_understanding(tmp_path: Path) -> None:
    text = "Nothing here. The magic number for shy-river is 4711. The magic number for red-tree is 12.\nEnd"
    done = await keyword(instance(text, "What is the magic number for shy-river?"), CONTEXT, tmp_path)
    assert (done.answer, done.usage.calls) == ("4711", 0)


async def test_a_model_of_unknown_window_is_retried_with_a_shorter_prompt(tmp_path: Path) -> None:
    sizes: list[int] = []

    def root(messages: Sequence[Message]) -> str:
        text = messages[0].content
        sizes.append(len(text))
        if len(text) > 60_000:
            raise ContextTooLong("too long")
        return "first and last" if text.startswith("first") and "last" in text[-100:] else "lost"

    given = instance("first " + "word " * 40_000 + "last")
    done = await direct(given, means_with(ScriptedModel(root)), tmp_path)
    assert done.answer == "first and last"
    assert len(sizes) == 4
    assert sorted(sizes, reverse=True) == sizes
    assert "context truncated to about" in done.note


@pytest.mark.parametrize(("task", "least", "most"), [("oolong_pairs", 0.5, 0.99), ("oolong/trec_coarse", 0.3, 0.99)])
async def test_keyword_rules_are_a_baseline_on_labels_too_and_do_not_know_them(
    task: str, least: float, most: float, tmp_path: Path
) -> None:
    made = [load_tasks()[task].make(length=8192, seed=7, index=index) for index in range(20)]
    scores = [score(each, (await keyword(each, CONTEXT, tmp_path)).answer).strict for each in made]
    assert least < statistics.fmean(scores) < most


async def test_an_evaluation_that_was_stopped_early_has_a_report_too(tmp_path: Path) -> None:
    rows = [
        ResultRow(task="t", length=8, seed=1, index=index, method=way, strict=1.0, lax=1.0, settings=PLAN.to_settings())
        for index, way in enumerate(["direct", "keyword"])
    ]
    text = markdown(Results(folder=tmp_path, settings=PLAN.to_settings(), rows={row.key: row for row in rows}))
    assert "Methods: 2. Answers: 2." in text
    assert "compared" not in text


def test_a_small_models_inventions_are_discarded() -> None:
    """The policy of `make niah-local`: a number counts only if its own piece contains it."""
    import builtins

    from rlm.testing.policies import POLICIES

    cell = POLICIES["needle by pieces"]([Message(role="system", content=""), *_said("look")])
    code = cell.partition("```repl\n")[2].removesuffix("```")
    lines = [f"words and more words {'x' * 60}"] * 200
    lines[150] = "The magic number is 4711000."
    printed: list[str] = []

    def llm_batch(prompts: list[str], **options: object) -> list[str]:
        assert all(prompt.endswith("Reply with the number only.") for prompt in prompts)
        assert all(len(prompt) < 2_700 for prompt in prompts)
        return [
            "The magic number is 4,711,000." if "4711000" in p else ["1", "10", "1234567", ""][n % 4]
            for n, p in enumerate(prompts)
        ]

    names = {
        "context": "\n".join(lines),
        "llm_batch": llm_batch,
        "print": lambda *message: printed.append(" ".join(map(str, message))),
    }
    exec(code, {"__builtins__": builtins, **names})
    assert printed[1] == "found ['4711000']"
    answer = POLICIES["needle by pieces"](
        [Message(role="system", content=""), *_said("look"), *_said("\n".join(printed))]
    )
    assert answer == "FINAL(4711000)"


def _said(shown: str) -> list[Message]:
    return [Message(role="assistant", content="..."), Message(role="user", content=shown)]
