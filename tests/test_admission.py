"""Which queued runs may begin: tables and properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrun.admission import AGEING, Candidate, admit
from batchrun.outcome import RunState

NOW = 1_000_000.0


def waiting(run_id: str, **fields) -> Candidate:
    return Candidate(run_id, **{"queued": NOW, **fields})


def test_the_oldest_of_equal_priority_comes_first_and_higher_priority_before_that():
    runs = [waiting("b", queued=NOW - 1), waiting("a", queued=NOW - 2), waiting("urgent", priority=1)]
    assert admit(runs, NOW).ready == ("urgent", "a", "b")


def test_a_run_that_has_waited_long_comes_before_newer_ones_of_higher_priority():
    old = waiting("old", queued=NOW - 2 * AGEING - 1)
    assert admit([waiting("new", priority=2), old], NOW).ready == ("old", "new")
    assert admit([waiting("new", priority=3), old], NOW).ready == ("new", "old")


def test_what_was_under_way_goes_on_before_anything_begins():
    runs = [waiting("urgent", priority=9), waiting("broken off", under_way=True)]
    assert admit(runs, NOW).ready == ("broken off", "urgent")


def test_a_run_waits_for_its_time():
    admission = admit([waiting("later", not_before=NOW + 90)], NOW)
    assert admission.ready == ()
    assert admission.waits == {"later": "until its time has come, in 1 min 30 s"}
    assert admit([waiting("later", not_before=NOW + 90)], NOW + 90).ready == ("later",)


def test_a_run_follows_others_once_all_have_ended_well():
    def follows(*states: RunState) -> Candidate:
        return waiting("next", after={f"r{number}": state for number, state in enumerate(states)})

    assert admit([follows(RunState.SUCCEEDED, RunState.PARTIAL)], NOW).ready == ("next",)
    assert admit([follows(RunState.SUCCEEDED, RunState.RUNNING)], NOW).waits["next"] == "for run r1 to end"
    for state in (RunState.FAILED, RunState.CANCELLED):
        assert admit([follows(RunState.RUNNING, state)], NOW).doomed == {
            "next": f"run r1, which it was to follow, has ended {state}"
        }
    gone = waiting("next", after={"r9": None})
    assert "no longer in the store" in admit([gone], NOW).doomed["next"]


def test_one_of_those_with_the_same_lock_may_begin():
    runs = [waiting("a", lock="gurobi"), waiting("b", lock="gurobi"), waiting("c", lock="other")]
    admission = admit(runs, NOW)
    assert admission.ready == ("a", "c")
    assert admission.waits == {"b": "for the lock gurobi, which run a has"}

    held = [waiting("z", lock="gurobi", held=True), *runs]
    assert admit(held, NOW).ready == ("c",)


candidates = st.builds(
    waiting,
    st.integers(0, 10**9).map(str),
    queued=st.floats(0, NOW),
    priority=st.integers(-5, 5),
    not_before=st.none() | st.floats(0, 2 * NOW),
    lock=st.none() | st.sampled_from("xy"),
    held=st.booleans(),
    under_way=st.booleans(),
    after=st.dictionaries(st.sampled_from("pq"), st.none() | st.sampled_from(list(RunState))),
)


@given(st.lists(candidates, unique_by=lambda one: one.run_id))
def test_every_run_that_nobody_holds_is_ready_or_waits_or_is_doomed(runs):
    admission = admit(runs, NOW)
    free = {one.run_id for one in runs if not one.held}
    told = [*admission.ready, *admission.waits, *admission.doomed]
    assert sorted(told) == sorted(free)

    locks = [one.lock for one in runs if one.run_id in admission.ready and one.lock]
    held = {one.lock for one in runs if one.held and one.lock}
    assert len(locks) == len(set(locks))
    assert not held.intersection(locks)
