import gzip
import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excitor.errors import ExcitorError
from excitor.evaluate.captions import java
from excitor.evaluate.captions.bleu import bleu, bleu_counts
from excitor.evaluate.captions.cider import Cider
from excitor.evaluate.captions.files import read_pair
from excitor.evaluate.captions.rouge import longest_common_subsequence, rouge_l
from excitor.evaluate.captions.scores import score_captions
from excitor.evaluate.captions.tokenizer import PUNCTUATION, tokenize


COCO = Path(__file__).parents[3] / "shared" / "data" / "coco"

captions = st.lists(st.sampled_from("abcde"), min_size=1, max_size=12)


# Right: what CoreNLP 3.4.1 prints with -preserveLines -lowerCase, less coco-caption's punctuation.
@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's T-shirt, isn't it?", "a man 's t-shirt is n't it"),
        ("can't cannot won't don't ain't", "ca n't can not wo n't do n't ai n't"),
        ("gonna wanna, lemme gotta 'tis", "gon na wan na lem me got ta 't is"),
        ("I'm you've he'd she'll they're dogs' dog's", "i 'm you 've he 'd she 'll they 're dogs dog 's"),
        ("a bird's-eye view, sit-down half-eaten", "a bird 's eye view sit-down half-eaten"),
        ("St. Paul Ave. street. etc. Mr. X.", "st. paul ave. street etc. mr. x."),
        ("T.V. t.v U.S. a.m. 5pm 10:30", "t.v. t.v u.s. a.m. 5pm 10:30"),
        ("1,000 3.5 1/2 $5 50% #1 AT&T b&b", "1,000 3.5 1/2 $ 5 50 % # 1 at&t b & b"),
        ('(grey) [x] "quoted" `x` it’s “so”', "-lrb- grey -rrb- -lsb- x -rsb- quoted x it 's so"),
        ("Hello...world. one..two -- - a-b what?! no!!!", "hello world one two a-b what ?! no !!!"),
        ("street.a stop,go and/or w/o w/ 10'x12'", "street.a stop go and/or w/o w / 10 x12"),
        ("getting ready to bat., in a can.; o'clock O'Neil", "getting ready to bat. in a can. o'clock o'neil"),
        ("rock'n'roll 'n' c'mon '90s 1920's", "rock 'n' roll 'n' c'mon '90s 1920 's"),
        ("café naïve ½ £5 😀 www.example.com, me@a.org", "café naïve 1/2 # 5 www.example.com me@a.org"),
        (":) <3 2x4 6' 5'10\" ...", ":-rrb- < 3 2x4 6 5 10"),
    ],
)
def test_tokens_are_those_of_the_penn_treebank(caption, tokens):
    assert " ".join(tokenize(caption)) == tokens


@given(st.text(max_size=40))
def test_tokens_of_any_text_are_lower_case_words(text):
    tokens = tokenize(text)
    assert not PUNCTUATION.intersection(tokens)
    assert all(token and not re.search(r"\s", token) and token == token.lower() for token in tokens)


@given(st.lists(st.from_regex(r"[b-z]{3,8}", fullmatch=True)), st.sampled_from(["", ".", "!", " ,", "\n"]))
def test_plain_words_stay_as_they_are(words, end):
    words = [word for word in words if word not in {"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"}]
    assert tokenize(" ".join(words) + end)[:-1] == words[:-1]


def table_lcs(left, right):
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, word in enumerate(left):
        for j, other in enumerate(right):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if word == other else max(lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]


@given(captions, captions)
def test_longest_common_subsequence_is_that_of_the_table(left, right):
    assert longest_common_subsequence(left, right) == table_lcs(left, right)


def test_rouge_takes_precision_and_recall_from_their_best_references():
    # 2 of 3 words in order with the first reference, all of the second's one word
    precision, recall = 2 / 3, 1.0
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l("abc", ["axbyzq", "c"]) == pytest.approx(expected)
    assert rouge_l(["a"], [["b"]]) == 0


def test_bleu_of_the_example_in_its_paper():
    """Section 2.1, example 2: "the" seven times has modified unigram precision 2/7."""
    counts = bleu_counts(["the"] * 7, [tokenize("the cat is on the mat"), tokenize("there is a cat")])
    assert counts == [7, 6, *(7, 6, 5, 4), *(2, 0, 0, 0)]
    assert bleu(np.array(counts)) == pytest.approx([2 / 7, 0, 0, 0])


def test_bleu_is_shortened_with_the_nearest_reference():
    first, second = bleu_counts("ab", ["abc", "a", "abcde"]), bleu_counts("ab", ["abcd"])
    assert first[1] == 1  # equally near: the shorter one
    assert bleu(np.array(first) + np.array(second))[1] == pytest.approx(math.exp(1 - 5 / 4))


@given(st.lists(captions, min_size=2, max_size=6))
def test_a_caption_that_repeats_its_only_reference_is_perfect(texts):
    cider = Cider([[text] for text in texts])
    counts = sum(np.array(bleu_counts(text, [text])) for text in texts)
    for text in texts:
        assert rouge_l(text, [text]) == pytest.approx(1)
        score = cider.score(text, [text])
        # an order counts if it has an n-gram that not every image has
        orders = sum(any(vector.values()) for vector in cider._vectors(text))
        assert score == pytest.approx(10 * orders / 4)
    assert bleu(counts) == pytest.approx([1.0 if total else 0.0 for total in counts[2:6]])


def test_cider_by_hand():
    """Three images; "dog" is in two of them, so it weighs log(3/2), and the others log(3)."""
    references = [[["dog", "runs"], ["dog"]], [["dog", "sits"]], [["cat"]]]
    cider = Cider(references)
    dog, rare = math.log(3 / 2), math.log(3)
    # candidate "dog dog": its count of 2 is clipped to the 1 of the reference
    unigrams = dog * dog / (2 * dog * math.hypot(dog, rare)) + dog * dog / (2 * dog * dog) * math.exp(-1 / (2 * 36))
    assert cider.score(["dog", "dog"], references[0]) == pytest.approx(10 * unigrams / (4 * 2))


def test_intervals_resample_images_and_keep_the_document_frequencies():
    """Half of the captions are right: the means of their scores are known, and BLEU-1 is the share of right words."""
    words = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    references = {str(n): [[word, "x"]] for n, word in enumerate(words)}
    candidates = {image: truth if int(image) % 2 else ["no", "no"] for image, [truth] in references.items()}
    report = score_captions(candidates, references)
    assert report == score_captions(candidates, references)
    assert report["intervals"].keys() == report["scores"].keys()
    half = 1.96 * 0.5 / math.sqrt(100)
    for name, best in (("Bleu_1", 1), ("ROUGE_L", 1), ("CIDEr", 5)):
        assert report["scores"][name] == pytest.approx(best / 2)
        assert report["intervals"][name] == pytest.approx((best * (0.5 - half), best * (0.5 + half)), rel=0.1)
    assert score_captions({"0": ["a"]}, {"0": [["a"]]})["intervals"] == {}


needs_coco = pytest.mark.skipif(not COCO.exists(), reason="needs ../shared/data/coco")


@needs_coco
def test_published_scores_of_coco():
    pair = read_pair(
        COCO / "captions_val2014_fakecap_results.json", COCO / "captions_val2014_fakecap_annotations.json"
    )
    expected = json.loads((COCO / "expected_scores.json").read_text())
    report = score_captions(*pair)
    for name, score in report["scores"].items():
        assert round(score, 3) == expected["published"][name], name
    counts = expected["published_counts"]
    assert report["bleu_counts"] == {name: counts[name] for name in ("testlen", "reflen", "guess", "correct")}
    # pycocoevalcap 1.2 with its Java tokenizer
    official = [0.5793995754573, 0.4043912974102, 0.2785363856619, 0.1908290437675, 0.3962526935757, 0.5997905185184]
    assert list(report["scores"].values()) == pytest.approx(official, abs=1e-12)
    for name, (low, high) in report["intervals"].items():
        assert 0 < high - low < 0.1
        assert low < report["scores"][name] < high


def write(path, value):
    path.write_text(json.dumps(value))
    return path


REFERENCES = {"annotations": [{"image_id": 1, "caption": "A dog."}, {"image_id": 1, "caption": "A big dog."}]}


@pytest.mark.parametrize(
    "references",
    [REFERENCES, REFERENCES["annotations"], {"1": ["A dog.", "A big dog."]}],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("results", [[{"image_id": 1, "caption": "a dog"}], {"1": ["a dog"]}])
def test_every_layout_is_read(tmp_path, results, references):
    packed = tmp_path / "references.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(references).encode()))
    candidates, truths = read_pair(write(tmp_path / "results.json", results), packed)
    assert candidates == {"1": ["a", "dog"]}
    assert truths == {"1": [["a", "dog"], ["a", "big", "dog"]]}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}], "row 2: image 1 has .*already, in row 1"),
        ([{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}], "row 2: image 1 has .*already"),
        ([{"image_id": 1, "caption": ""}], r"row 1 \(image 1\): the caption '' is empty or has no words"),
        ([{"image_id": 1, "caption": " ... "}], "is empty or has no words"),
        ({"1": ["a", "b"]}, "caption 2 of '1': image 1 has a caption already, in caption 1 of '1'"),
        ([{"image_id": 1, "caption": None}], r"row 1 \(image 1\): the caption must be a text, not None"),
        ([{"image_id": 1.5, "caption": "a"}], "row 1: the image id must be a number or a text, not 1.5"),
        ([{"image_id": 1, "caption": "a"}, {"image_id": 7, "caption": "b"}], "1 of 2 .* no ref.*: 7 \\(row 2\\)"),
        ([{"image_id": 1, "text": "a"}], "row 1 is .*expected one of"),
        ({"1": "a dog"}, "'1' has 'a dog'; expected one of"),
        ([], "holds no captions; expected one of"),
        ("a dog", "holds no captions; expected one of"),
    ],
)
def test_bad_results_are_named(tmp_path, results, message):
    file = write(tmp_path / "results.json", results)
    with pytest.raises(ExcitorError, match=message) as error:
        read_pair(file, write(tmp_path / "references.json", REFERENCES))
    assert str(file) in str(error.value)


def test_images_without_a_caption_are_an_error_unless_a_subset_is_asked_for(tmp_path):
    results = write(tmp_path / "results.json", {"2": ["a cat"]})
    references = write(tmp_path / "references.json", {"1": ["a dog"], "2": ["the cat"], "3": ["a cow"]})
    with pytest.raises(ExcitorError, match=r"references.json: 2 of 3 images have no caption .*: 1, 3\. .*--subset"):
        read_pair(results, references)
    candidates, truths = read_pair(results, references, subset=True)
    assert (candidates, truths) == ({"2": ["a", "cat"]}, {"2": [["the", "cat"]]})


def test_a_key_twice_is_an_error(tmp_path):
    file = tmp_path / "results.json"
    file.write_text('{"1": ["a dog"], "1": ["a cat"]}')
    with pytest.raises(ExcitorError, match=r"results\.json: the key '1' is given twice"):
        read_pair(file, file)


@pytest.mark.parametrize(("name", "content"), [("x.json", b"{"), ("x.json", b"\xff"), ("x.json.gz", b"{}")])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExcitorError, match=r"x\.json.* could not be read as JSON"):
        read_pair(tmp_path / name, tmp_path / name)


class Broken:
    def compute_score(self, truths, results):
        assert (truths, results) == ({"1": ["a dog"]}, {"1": ["a dog"]})
        raise OSError("no memory for Java")


class Working:
    def compute_score(self, truths, results):
        return 0.25, [0.25]


def test_java_metrics_say_why_they_did_not_run(monkeypatch):
    pair = {"1": ["a", "dog"]}, {"1": [["a", "dog"]]}
    assert score_captions(*pair)["not_run"].keys() == {"METEOR", "SPICE"}

    monkeypatch.setattr(shutil, "which", lambda name: None)
    reasons = score_captions(*pair, java=True)["not_run"]
    assert reasons == dict.fromkeys(("METEOR", "SPICE"), "there is no java on the PATH")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(Broken=Broken, Working=Working))
    monkeypatch.setattr(java, "JAVA_METRICS", {"METEOR": "no_such_package:Meteor", "SPICE": "fake:Broken"})
    reasons = score_captions(*pair, java=True)["not_run"]
    assert reasons["METEOR"] == "No module named 'no_such_package'; pip install 'excitor[captions]'"
    assert reasons["SPICE"] == "OSError: no memory for Java"

    monkeypatch.setattr(java, "JAVA_METRICS", {"METEOR": "fake:Working"})
    report = score_captions(*pair, java=True)
    assert report["scores"]["METEOR"] == 0.25
    assert report["not_run"] == {}
