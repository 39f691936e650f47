from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excitor.evaluate import parallel
from excitor.evaluate.parallel import from_main, merge, share


@given(count=st.integers(0, 20), processes=st.integers(1, 6))
def test_what_is_shared_is_done_once(count, processes):
    with pytest.MonkeyPatch.context() as patch:
        state = SimpleNamespace(num_processes=processes, process_index=0)
        patch.setattr(parallel, "this_process", lambda: state)
        parts = []
        for state.process_index in range(processes):
            parts.append({place: str(place) for place in share(range(count))})
        patch.setattr(parallel, "gather_object", lambda mine: parts)
        assert merge(parts[0]) == {place: str(place) for place in range(count)}
        assert sum(map(len, parts)) == count
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_process_does_everything():
    assert list(share([1, 2, 3])) == [1, 2, 3]
    assert merge({"a": 1}) == {"a": 1}
    assert from_main({"a": 1}) == {"a": 1}
