import pytest

from excitor.compare.numbers import number_match


@pytest.mark.parametrize(
    ("reply", "answer", "same"),
    [
        ("First 3, then 4. The answer is: 7", "... #### 7", 1),
        ("The answer is: 50%.", "#### 50", 1),
        ("The final answer is $1,000", "#### 1000", 1),
        ("The answer is: 20/35", "The answer is: 4/7", 1),
        ("The answer is: 0.50", "The answer is: 1/2", 1),
        ("The answer is: 7\nQuestion: 9 + 9? The answer is: 18", "#### 7", 0),
        ("The answer is: 7\n\nNext", "#### 7", 1),
        ("Seven", "#### 7", 0),
        ("7", "#### 7", 0),
        ("The answer is: x + 1", "The answer is: x + 1.", 1),
        ("The answer is: 1/0", "#### 1", 0),
        ("", "#### 1", 0),
    ],
)
def test_the_last_result_counts_however_it_is_written(reply, answer, same):
    assert number_match(reply, answer) == same
