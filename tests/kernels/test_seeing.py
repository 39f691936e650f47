"""The kernels of tokens that see pictures against the equations in fp64: on a GPU, else in Triton's interpreter."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from excitor import ExcitorConfig, ExcitorLayer, set_strength
from excitor.diagnostics.saved import saved_tensors
from excitor.folded import Folded
from excitor.folded_pictures import FoldedPictures, folded_gradients_seeing, folded_term_seeing
from excitor.placement import InProjection
from excitor.recompute import Backend
from excitor.recompute_pictures import adapter_term_seeing
from excitor.vision import ExcitorForConditionalGeneration
from excitor.visual import Pictures, seeing
from kernel_checks import DEVICE, TOLERANCE, amid_nans, assert_near, make_folded, uninitialised_memory_is_nan
from tiny import make_encoder, make_llama


pytest.importorskip("triton")

from excitor.kernels import launch, launch_seeing


TRITON = Backend(launch.excited, launch.gradients, launch_seeing.excited, launch_seeing.gradients)
SWITCHES = [
    {},
    {"num_prompts": 0, "num_local_prompts": 0},
    {"num_prompts": 0, "num_local_prompts": 3, "vision_rank": 2},
    {"num_local_prompts": 1, "null_prompt": True, "separate_values": True, "temperature": 0.5},
    {"num_prompts": 0, "num_local_prompts": 0, "null_prompt": True, "gate": "layer"},
]
COUNTS = torch.tensor([2, 0, 1])


def make_layer(heads: int = 2, head_dim: int = 5, **switches) -> ExcitorLayer:
    """In fp64, with parameters that fp32 can hold."""
    layer = ExcitorLayer(nn.Linear(10, heads * head_dim), head_dim)
    fields = {"r": 3, "num_prompts": 7, "vision_width": 6, "init_weights": False}
    layer.update_layer("default", ExcitorConfig(**(fields | switches)))
    return layer.to(DEVICE, torch.float64)


def parameters(layer: ExcitorLayer) -> dict[str, nn.Parameter]:
    return {name: p for name, p in layer.named_parameters() if "excitor_" in name and p.numel()}


def make_pictures(layer_dtype: torch.dtype = torch.float32) -> Pictures:
    """9 features a picture; the row in the middle has none."""
    features = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0)).to(DEVICE, layer_dtype)
    pictures = Pictures.of_rows(features, COUNTS)
    assert pictures is not None
    return pictures


def by_kernels(layer: ExcitorLayer, x: Tensor, pictures: Pictures, dtype: torch.dtype) -> Tensor:
    generator, processor = layer.parts("default")
    seen = processor.fold_pictures(pictures.prompts(layer.excitor_visual["default"], len(x)))
    return adapter_term_seeing(x, processor.A, processor.fold(generator), seen, None, dtype, TRITON)


def as_written(layer: ExcitorLayer, x: Tensor, pictures: Pictures) -> Tensor:
    generator, processor = layer.parts("default")
    return processor.term(x, generator, pictures.prompts(layer.excitor_visual["default"], len(x)))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_term_and_every_gradient_are_the_references(switches: dict, dtype: torch.dtype) -> None:
    layer = make_layer(**switches)
    x = torch.randn(3, 5, 10, device=DEVICE).to(dtype).requires_grad_()
    grad = torch.randn(3, 5, 10, device=DEVICE).to(dtype)
    exact = x.detach().double().requires_grad_()
    leaves = parameters(layer)
    expected = as_written(layer, exact, make_pictures(torch.float64))
    gradients = torch.autograd.grad(expected, [exact, *leaves.values()], grad.double())

    single = copy.deepcopy(layer).float()
    found = by_kernels(single, x, make_pictures(), dtype)
    assert found.dtype == dtype
    assert_near(found, expected, TOLERANCE[dtype])
    own = torch.autograd.grad(found, [x, *parameters(single).values()], grad)
    for name, ours, theirs in zip(["x", *leaves], own, gradients, strict=True):
        assert theirs.abs().max() > 0, name
        assert_near(ours, theirs, TOLERANCE[dtype], name)


def make_case(
    rows: int, length: int, heads: int, head_dim: int, rank: int, prompts: int, local: int, null: bool, visual: int
) -> tuple[Tensor, Folded, FoldedPictures]:
    """With a mask that leaves about half of the visual prompts, and none to the first row."""
    mask = torch.rand(rows, visual, device=DEVICE) < 0.5
    mask[:1] = False
    pictures = FoldedPictures(
        torch.randn(rows, rank, heads * visual, device=DEVICE),
        torch.randn(rows, heads, visual, head_dim, device=DEVICE),
        mask,
    )
    folded = make_folded(heads, head_dim, rank, prompts, local, null)
    return torch.randn(rows, length, rank, device=DEVICE), folded, pictures


def run(z: Tensor, folded: Folded, pictures: FoldedPictures, grad: Tensor) -> tuple[Tensor | None, ...]:
    term, kept = launch_seeing.excited(z, folded, pictures, None, grad.dtype)
    return term, *launch_seeing.gradients(z, folded, pictures, term, kept, grad)


def reference(z: Tensor, folded: Folded, pictures: FoldedPictures, grad: Tensor) -> tuple[Tensor | None, ...]:
    z, grad = z.double(), grad.double()
    folded = Folded(*(None if t is None else t.double() for t in folded[:3]), *folded[3:])
    pictures = FoldedPictures(pictures.scores.double(), pictures.values.double(), pictures.mask)
    term, kept = folded_term_seeing(z, folded, pictures)
    return term, *folded_gradients_seeing(z, folded, pictures, term, kept, grad)


@settings(max_examples=25)
@given(
    rows=st.integers(0, 2),
    length=st.sampled_from([0, 1, 15, 17, 33]),
    heads=st.integers(1, 2),
    head_dim=st.sampled_from([1, 7, 16, 80]),
    rank=st.sampled_from([1, 3, 16, 20]),
    prompts=st.sampled_from([0, 1, 17]),
    local=st.integers(0, 2),
    null=st.booleans(),
    visual=st.sampled_from([1, 16, 63, 65, 130]),
    masked=st.booleans(),
)
def test_any_shape(rows, length, heads, head_dim, rank, prompts, local, null, visual, masked) -> None:
    z, folded, pictures = make_case(rows, length, heads, head_dim, rank, prompts, local, null, visual)
    if not masked:
        pictures = pictures._replace(mask=None)
    grad = torch.randn(rows, length, heads * head_dim, device=DEVICE)
    found, expected = run(z, folded, pictures, grad), reference(z, folded, pictures, grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None and theirs.numel():
            assert (ours.double() - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-6


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_everything_is_written_and_nothing_read_beside(dtype: torch.dtype) -> None:
    z, folded, pictures = make_case(2, 19, 2, 20, 5, prompts=9, local=1, null=True, visual=70)
    grad, key = (torch.randn(2, 19, 40, device=DEVICE).to(dtype) for _ in range(2))
    expected = *run(z, folded, pictures, grad), launch_seeing.excited(z, folded, pictures, key, dtype)[0]
    poisoned = Folded(*(amid_nans(t) for t in folded[:3] if t is not None), *folded[3:])
    around = FoldedPictures(amid_nans(pictures.scores), amid_nans(pictures.values), pictures.mask)
    with uninitialised_memory_is_nan():
        found = run(amid_nans(z), poisoned, around, amid_nans(grad))
        with_key, _ = launch_seeing.excited(amid_nans(z), poisoned, around, amid_nans(key), dtype)
    for ours, theirs in zip((*found, with_key), expected, strict=True):
        assert ours is not None
        assert ours.isfinite().all()
        assert torch.equal(ours, theirs)  # the order of sums is fixed, too
    assert_near(with_key, key.double() + expected[0].double(), TOLERANCE[dtype])


def test_what_is_masked_is_not_looked_at() -> None:
    z, folded, pictures = make_case(2, 3, 2, 8, 4, prompts=3, local=0, null=False, visual=20)
    assert pictures.mask is not None
    grad = torch.randn(2, 3, 16, device=DEVICE)
    hidden = ~pictures.mask[:, None, :, None]
    found = run(z, folded, pictures._replace(values=pictures.values.masked_fill(hidden, torch.nan)), grad)
    for ours, theirs in zip(found, run(z, folded, pictures, grad), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    for gradient in (found[5].view(2, 4, 2, 20)[:, 0, 0], found[6][:, 0, :, 0]):
        assert torch.equal(gradient != 0, pictures.mask)


def test_a_row_without_any_prompt_gets_exactly_nothing() -> None:
    z, folded, pictures = make_case(2, 3, 2, 8, 4, prompts=0, local=0, null=False, visual=20)
    term, z_grad, *_ = run(z, folded, pictures, torch.randn(2, 3, 16, device=DEVICE))
    assert torch.equal(term[0], torch.zeros_like(term[0]))
    assert torch.equal(z_grad[0], torch.zeros_like(z_grad[0]))
    assert (term[1] != 0).all()


def test_huge_scores_do_not_overflow() -> None:
    z, folded, pictures = make_case(2, 5, 2, 8, 4, prompts=6, local=1, null=True, visual=70)
    grad = torch.zeros(2, 5, 16, device=DEVICE)
    assert_near(run(200 * z, folded, pictures, grad)[0], reference(200 * z, folded, pictures, grad)[0], 1e-4)


def test_gradients_of_gradients() -> None:
    layer = make_layer().float()
    x, pictures = torch.randn(3, 4, 10, device=DEVICE, requires_grad=True), make_pictures()
    found = []
    for out in (by_kernels(layer, x, pictures, torch.float32), as_written(layer, x, pictures)):
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *parameters(layer).values()]))
    for ours, theirs in zip(*found, strict=True):
        assert_near(ours, theirs.double(), 1e-3)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """The keys, or None for a term alone, that the forward kernel was given."""
    from excitor import implementation

    keys, original = [], launch_seeing.excited

    def excited(z, folded, pictures, key, dtype):
        keys.append(key)
        return original(z, folded, pictures, key, dtype)

    monkeypatch.setattr(launch_seeing, "excited", excited)
    implementation._fused.cache_clear()
    yield keys
    implementation._fused.cache_clear()


@pytest.mark.parametrize("case", ["alone", "strong", "two adapters", "among queries and values"])
def test_layers_with_pictures(under, launched, case: str) -> None:
    fused = case == "among queries and values"
    layer = ExcitorLayer(nn.Linear(10, 24 if fused else 8), 4, InProjection(24, 2, 4, 4) if fused else None)
    for name in ("default", "other"):
        layer.update_layer(name, ExcitorConfig(r=3, num_prompts=5, vision_width=6, init_weights=False))
    layer = layer.to(DEVICE)
    if case == "strong":
        set_strength(layer, 0.5)
    if case == "two adapters":
        layer.set_adapter(["default", "other"])
    x = torch.randn(6, 2, 2, 10, device=DEVICE, requires_grad=True)  # two beams a row, and a dimension more
    results = []
    for implementation in ("triton", "eager"):
        under(implementation)
        with seeing(make_pictures()):
            out = layer(x)
            with torch.no_grad():
                assert_near(layer(x), out.double(), 1e-5)
            learning = [p for name, p in layer.named_parameters() if "excitor_" in name and "default" in name]
            results.append([out, *torch.autograd.grad(out.square().sum(), [x, *learning])])
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours, theirs.double(), 1e-4)
    adapters = 2 if case == "two adapters" else 1
    # Forward, the forward pass again without gradients, and again for the backward pass.
    assert len(launched) == 3 * adapters
    assert any(key is not None for key in launched) == (case in ("alone", "two adapters"))


@pytest.mark.parametrize("implementation", ["triton", "auto"])
def test_it_keeps_the_input_alone(under, launched, implementation: str) -> None:
    layer = make_layer().float()
    under(implementation)
    sizes = []
    for length in (3, 20):
        x = torch.randn(3, length, 10, device=DEVICE, requires_grad=True)
        with seeing(make_pictures()), saved_tensors(layer) as saved:
            out = layer(x)
        sizes.append(saved.bytes)
        del out
    assert launched == (2 * [None] if implementation == "triton" else [])
    assert (sizes[1] - sizes[0]) / (3 * 17) == 4 * 10


def test_autocast_hands_the_kernels_what_they_take(under, launched) -> None:
    layer, x = make_layer().float(), torch.randn(3, 4, 10, device=DEVICE)
    results = []
    for implementation in ("triton", "eager"):
        under(implementation)
        with seeing(make_pictures()), torch.autocast(DEVICE, torch.bfloat16):
            out = layer(x)
        assert out.dtype == torch.bfloat16
        results.append([out, *torch.autograd.grad(out.float().square().sum(), list(parameters(layer).values()))])
    assert launched
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours, theirs.double(), 0.05)


def test_a_model_that_sees_learns_and_answers_the_same(under, launched) -> None:
    config = ExcitorConfig(r=4, num_prompts=3, init_weights=False, top_layers=1, null_prompt=True)
    model = ExcitorForConditionalGeneration.from_frozen(make_llama(), make_encoder(), config).to(DEVICE)
    tokens, pixels = torch.randint(3, 259, (3, 5), device=DEVICE), torch.randn(3, 3, 16, 16, device=DEVICE)
    inputs = {"input_ids": tokens, "pixel_values": pixels, "num_images": COUNTS.to(DEVICE)}
    inputs["attention_mask"] = torch.ones_like(tokens)
    results, answers = [], []
    for implementation in ("triton", "eager"):
        under(implementation)
        model.train()
        model.zero_grad()
        loss = model(**inputs, labels=tokens).loss
        loss.backward()
        results.append([loss, *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
        model.eval()
        answers.append(model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, num_beams=2, do_sample=False))
    assert launched
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours, theirs.double(), 1e-3)
    assert torch.equal(*answers)
