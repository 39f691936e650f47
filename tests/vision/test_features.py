import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from excitor.environment import file_digest
from excitor.errors import ExcitorError
from excitor.vision import precompute
from excitor.vision.arguments import FeatureArguments
from excitor.vision.encoder import encode
from excitor.vision.features import FeatureStore, encoding_of, fingerprint
from excitor.vision.precompute import make_features
from tiny import make_encoder
from tiny_vision import make_image_processor, save_encoder


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    return save_encoder(tmp_path / "encoder")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    shutil.copy(folder / "a.png", folder / "copy of a.png")
    return folder


def arguments(encoder: str, pictures: Path, **changes) -> FeatureArguments:
    values = {"vision_model": encoder, "images": [str(pictures)], "out": str(pictures.parent / "features")}
    return FeatureArguments(**(values | changes))


def test_features_are_those_of_the_encoder(encoder: str, pictures: Path):
    store = make_features(arguments(encoder, pictures, feature_layer=-2, feature_select="patch"))
    assert len(store) == 3  # a copy is the same picture
    image = Image.open(pictures / "b.png")
    pixels = make_image_processor()(images=[image], return_tensors="pt")["pixel_values"]
    expected = encode(make_encoder(), pixels, layer=-2, select="patch")
    torch.testing.assert_close(store.get([file_digest(pictures / "b.png")]), expected)


def test_computed_once_and_resumed(encoder: str, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    encoded: list[int] = []

    def counting(*args, **kwargs):
        encoded.append(len(args[1]))
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    monkeypatch.setattr(precompute, "encode", counting)
    monkeypatch.setattr(precompute, "SHARD_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        make_features(arguments(encoder, pictures, batch_size=1))
    assert len(FeatureStore(pictures.parent / "features")) == 1
    store = make_features(arguments(encoder, pictures, batch_size=1))
    assert (len(store), encoded) == (3, [1, 1, 1, 1])
    make_features(arguments(encoder, pictures))
    assert len(encoded) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype: torch.dtype, encoder: str, tmp_path: Path):
    store = FeatureStore.open(tmp_path / "features", encoding_of(encoder, -1, "full"))
    features = torch.randn(2, 5, 24).to(dtype)
    store.add(["x", "y"], features)
    again = FeatureStore(tmp_path / "features")
    assert torch.equal(again.get(["y", "x", "y"]), features[[1, 0, 1]])
    assert again.get(["x"]).dtype == dtype
    assert load_file(next((tmp_path / "features").glob("*.safetensors")))["features"].dtype == dtype


def test_moved_pictures_are_found_and_changed_ones_are_not(encoder: str, pictures: Path):
    store = make_features(arguments(encoder, pictures))
    moved = pictures.rename(pictures.parent / "moved")
    assert len(store.find({str(moved / "a.png"): "row 1"})) == 1
    Image.new("RGB", (8, 8)).save(moved / "a.png")
    with pytest.raises(ExcitorError, match=r"lacks the features of 1 of 1 pictures: .*a.png \(row 1\)"):
        store.find({str(moved / "a.png"): "row 1"})


def test_another_encoder_is_refused(encoder: str, pictures: Path, tmp_path: Path):
    make_features(arguments(encoder, pictures))
    wider = save_encoder(tmp_path / "wider", hidden_size=32)
    with pytest.raises(ExcitorError, match="width is 24 there and 32 here"):
        make_features(arguments(wider, pictures))
    with pytest.raises(ExcitorError, match="layer is -1 there and -2 here, select is full there and cls here"):
        make_features(arguments(encoder, pictures, feature_layer=-2, feature_select="cls"))
    other = save_encoder(tmp_path / "other", initializer_range=0.1)
    with pytest.raises(ExcitorError, match="are not the same"):
        make_features(arguments(other, pictures))
    moved = shutil.move(encoder, tmp_path / "moved encoder")
    make_features(arguments(str(moved), pictures))  # the same one in another place


def test_fingerprint_sees_weights_and_preparation(encoder: str, tmp_path: Path):
    before = fingerprint(encoder)
    assert before == fingerprint(encoder)
    (Path(encoder) / "preprocessor_config.json").write_text("{}")
    assert fingerprint(encoder) != before
    assert (
        fingerprint(make_encoder()) == fingerprint(make_encoder()) != fingerprint(make_encoder(initializer_range=0.1))
    )


def test_unreadable_pictures_are_named_after_all_others(encoder: str, pictures: Path):
    (pictures / "broken.png").write_text("no picture")
    with pytest.raises(ExcitorError, match=r"1 of 5 pictures cannot be used:\n.*broken.png is no picture"):
        make_features(arguments(encoder, pictures))
    assert len(FeatureStore(pictures.parent / "features")) == 3


def test_damage_is_named(encoder: str, pictures: Path, tmp_path: Path):
    folder = pictures.parent / "features"
    with pytest.raises(ExcitorError, match=r"holds no features \(no index.json\)"):
        FeatureStore(folder)
    store = make_features(arguments(encoder, pictures))
    with pytest.raises(ExcitorError, match="shape \\(5, 24\\), and these have \\(6, 24\\)"):
        store.add(["z"], torch.zeros(1, 6, 24))
    with pytest.raises(ExcitorError, match="no finite numbers"):
        store.add(["z"], torch.full((1, 5, 24), torch.nan))
    (folder / "000000.safetensors").write_bytes(b"half")
    with pytest.raises(ExcitorError, match=r"000000.safetensors is damaged"):
        FeatureStore(folder)
    (folder / "index.json").write_text("{}")
    with pytest.raises(ExcitorError, match=r"index.json is damaged"):
        FeatureStore(folder)
    with pytest.raises(ExcitorError, match="is not empty and holds no features"):
        FeatureStore.open(tmp_path / "pictures", replace(store.encoding))


def test_faults_before_anything_is_read(pictures: Path):
    with pytest.raises(ExcitorError) as error:
        make_features(FeatureArguments(feature_select="all", precision="int8", batch_size=0))
    for part in ("--vision-model", "--out", "no pictures", "--batch-size", "--precision", "--feature-select"):
        assert part in str(error.value)
    with pytest.raises(ExcitorError, match="neither a folder with a model"):
        make_features(arguments("nowhere", pictures))
