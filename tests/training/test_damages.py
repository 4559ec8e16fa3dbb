"""Every kind of file in a workdir, damaged: the run goes on as it was, or the file is named."""

import itertools
import re
import shutil

import pytest

from cxrjax.errors import UserError
from cxrjax.training import loop, restored
from tests.training.test_loop import toy_config
from tests.training.test_runs import DAMAGES, equal, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 8 steps, saved every 4."""
    folder = tmp_path_factory.mktemp("whole")
    loop.train(toy_config(), folder)
    return folder


def kinds(folder):
    """{kind: one file of it}: files of one checkpoint by their place, hashes and times left out."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).as_posix()
        if re.match(r"checkpoints/\w+/4/", inside) or path.name.startswith(".lock"):
            continue
        kind = re.sub(r"[0-9a-f]{32}", "*", re.sub(r"events\..*", "events.*", inside))
        # The largest of those that only their hash tells apart.
        if kind not in found or path.stat().st_size > found[kind].stat().st_size:
            found[kind] = path
    return found


def goes_on(run, finished):
    """What a training makes of a damaged run, in words; fails where that is none of what may be."""
    try:
        assert loop.train(toy_config(), run)["step"] == 8
        equal(weights(run), weights(finished))
        aside = (run / "checkpoints" / "damaged").is_dir()
        return "set aside, from step 4" if aside else "goes on from step 8"
    except UserError as error:
        assert str(run) in str(error)
        return f"refused ({str(error)[:60]}...)"


def is_evaluated(run, finished):
    """What an evaluation makes of it."""
    try:
        best = restored.restore(run)
        assert best.step == 8
        equal({n: s.params for n, s in best.states.items()},
              {n: s.params for n, s in restored.restore(finished).states.items()})
        return "evaluated as it was"
    except UserError as error:
        assert str(run / "checkpoints" / "best") in str(error), error
        return "evaluation names best/8"


def table(finished, tmp_path, cases, looks=lambda kind: (goes_on, is_evaluated)):
    rows = []
    for number, (kind, damage) in enumerate(cases):
        run = shutil.copytree(finished, tmp_path / str(number))
        path = run / kinds(finished)[kind].relative_to(finished)
        DAMAGES[damage](path)
        outcome = "; ".join(look(run, finished) for look in looks(kind))
        rows.append(f"{kind:58} {damage:13} {outcome}")
        shutil.rmtree(run)
    print("\n".join(rows))
    return rows


def test_each_kind_of_file(finished, tmp_path):
    """One way each, and asked by whom it concerns; the slow test asks both in every way.

    Those that `test_runs` damages in every way are left to it and to the slow test.
    """
    names = [kind for kind in kinds(finished) if not re.search(
        r"commit_success|/(data|meta)/|/state/d/|process_0|best/.*(manifest|_sharding)|/config.json"
        r"|metrics.jsonl|predictions_best", f"/{kind}")]
    assert len(names) >= 12, names
    rows = table(finished, tmp_path, zip(names, itertools.cycle(DAMAGES)),
                 lambda kind: (is_evaluated if "/best/" in kind else goes_on,))
    assert any("set aside" in row for row in rows) and any("names best" in row for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_file_in_each_way(finished, tmp_path, damage):
    table(finished, tmp_path, [(kind, damage) for kind in kinds(finished)])
