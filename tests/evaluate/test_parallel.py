import pytest
from hypothesis import given
from hypothesis import strategies as st

from excitor.evaluate import parallel
from excitor.evaluate.parallel import from_main, gather, share


@given(count=st.integers(0, 20), processes=st.integers(1, 6))
def test_what_is_shared_comes_back_in_order(count, processes):
    with pytest.MonkeyPatch.context() as patch:
        state = type("State", (), {"num_processes": processes, "process_index": 0})
        patch.setattr(parallel, "this_process", lambda: state)
        parts = []
        for state.process_index in range(processes):
            parts.append(list(share(count)))
        patch.setattr(parallel, "gather_object", lambda mine: parts)
        assert gather(parts[0]) == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_process_does_everything():
    assert list(share(3)) == gather([0, 1, 2]) == [0, 1, 2]
    assert from_main({"a": 1}) == {"a": 1}
