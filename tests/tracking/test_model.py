"""The model that MLflow holds: what a method can do, in both flavors, with its inputs checked."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import methods
from pipeline.core.batch import ImageSpec
from pipeline.inference.encode import encode, reconstruct
from pipeline.inference.weights import Trained, load_weights, save_weights
from pipeline.tracking.model import save_model

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8)
UNIT = PIXELS.astype(np.float32) / 127.5 - 1


def saved(folder: Path, name: str, **params: Any) -> tuple[Any, Any, Trained]:
    """The pyfunc and the torch model of fresh weights, and what they were made from."""
    import mlflow

    method, spec = methods.load(name, **params), ImageSpec(channels=1, size=16, classes=4)
    torch.manual_seed(0)
    nets = method.build(spec)
    ema = nn.ModuleDict({key: copy.deepcopy(nets[key]) for key in method.sampled})
    file = folder / "weights.safetensors"
    save_weights(file, name=name, params=params, spec=spec, seen=64, nets=nets, ema=ema)
    save_model(file, folder / "model", classes=("zero", "one", "two", "three"))
    loaded = mlflow.pyfunc.load_model(str(folder / "model"))
    return loaded, mlflow.pytorch.load_model(str(folder / "model")), load_weights(file)


def test_a_translator_of_one_direction_does_not_go_back(project: Path) -> None:
    plain, program, trained = saved(project, "pix2pix", width=4, levels=2)
    with torch.no_grad():
        there = trained.method.translate(trained.nets, torch.from_numpy(UNIT), "a_to_b").numpy()
    np.testing.assert_allclose(plain.predict({"images": PIXELS}, {"direction": "a_to_b"}), there, atol=1e-5)
    np.testing.assert_allclose(program(torch.from_numpy(UNIT)).detach().numpy(), there, atol=1e-5)
    with pytest.raises(ValueError, match="pix2pix cannot reconstruct; it can a_to_b"):
        plain.get_raw_model().reconstruct(PIXELS)


def test_a_translator_has_both_directions_and_refuses_what_is_out_of_range(project: Path) -> None:
    plain, program, trained = saved(project, "cyclegan", width=4, blocks=0)
    raw, nets = plain.get_raw_model(), trained.nets
    with torch.no_grad():
        there, back = (nets[name](torch.from_numpy(UNIT)).numpy() for name in ("a_to_b", "b_to_a"))
    assert np.abs(there - back).max() > 1e-3
    for images in (UNIT, PIXELS, PIXELS.astype(np.int64)):
        np.testing.assert_allclose(plain.predict({"images": images}), there, atol=1e-5)
        np.testing.assert_allclose(plain.predict({"images": images}, {"direction": "b_to_a"}), back, atol=1e-5)
    np.testing.assert_allclose(raw.reconstruct(PIXELS, direction="b_to_a"), raw.translate(back), atol=1e-5)
    np.testing.assert_allclose(program(torch.from_numpy(UNIT)).detach().numpy(), there, atol=1e-5)
    for wrong, words in (
        (PIXELS.astype(np.float32), r"float images must lie in \[-1, 1\], got 0.0 to 255.0"),
        (UNIT + np.float32(np.nan), r"must lie in \[-1, 1\]"),
        (PIXELS.astype(np.int64) * 2, "integer images must lie in 0 to 255"),
        (np.moveaxis(PIXELS, 1, 3), r"must have the shape \(n, 1, 16, 16\).*got \(3, 16, 16, 1\)"),
        (PIXELS > 3, "got bool"),
    ):
        with pytest.raises(ValueError, match=words):
            plain.predict({"images": wrong})
    with pytest.raises(ValueError, match="direction must be one of a_to_b, b_to_a"):
        plain.predict({"images": PIXELS}, {"direction": "up"})
    with pytest.raises(RuntimeError, match=r"images must lie in \[-1, 1\]"):
        program(torch.from_numpy(PIXELS).float())
    with pytest.raises(ValueError, match=r"cyclegan cannot sample; it can a_to_b, b_to_a"):
        raw.sample(np.arange(3))
    signature = plain.metadata.signature
    assert signature.inputs.input_names() == ["images"] and signature.params.params[0].default == "a_to_b"
    assert signature.outputs.inputs[0].shape == (-1, 1, 16, 16)
    size = sum(file.stat().st_size for file in (project / "model").rglob("*") if file.is_file())
    assert plain.metadata.model_size_bytes == pytest.approx(size, rel=0.1)


def test_a_model_encodes_and_decodes_as_the_method_does(project: Path) -> None:
    plain, _, trained = saved(project, "cvae", width=8, latent=4)
    raw, labels = plain.get_raw_model(), np.array([0, 1, 3])
    expected = next(encode(trained, [torch.from_numpy(PIXELS)], torch.from_numpy(labels)))
    found = raw.encode(PIXELS, labels)
    assert set(found) == {"mean", "log_variance"}
    np.testing.assert_allclose(found["mean"], expected["mean"].numpy(), atol=1e-5)
    np.testing.assert_allclose(raw.encode(UNIT[:1], 0)["mean"], found["mean"][:1], atol=1e-5)
    back = next(reconstruct(trained, [torch.from_numpy(PIXELS)], torch.from_numpy(labels))).numpy()
    assert np.abs((raw.reconstruct(PIXELS, labels) + 1) * 127.5 - back).max() <= 0.51
    sampled = plain.predict({"seeds": np.arange(3), "labels": labels})
    np.testing.assert_allclose(raw.sample(np.arange(3), labels), sampled)
    assert raw.class_names == ["zero", "one", "two", "three"]
    np.testing.assert_array_equal(raw.sample(np.arange(3), ["zero", "one", "three"]), raw.sample(np.arange(3), labels))
    for call, words in (
        (lambda: raw.encode(PIXELS, [0, 1]), "labels must be as many"),
        (lambda: raw.encode(PIXELS, 4), "labels must lie in 0 to 3"),
        (lambda: raw.encode(PIXELS, 0.5), "labels must be integers"),
        (lambda: raw.encode(PIXELS, "four"), "no class 'four'; known: zero, one, two, three"),
        (lambda: raw.sample([1.7]), "seeds must be integers"),
        (lambda: raw.decode(np.zeros((2, 5))), r"mean must have the shape \(n, 4\)"),
        (lambda: raw.decode(np.full((2, 4), np.inf)), "mean must be finite"),
        (lambda: raw.sample([-1]), "seeds must be 0 or more"),
        (lambda: plain.predict({"seeds": np.arange(3), "labels": labels[:2]}), "labels must be as many"),
        (lambda: raw.translate(PIXELS), "cvae cannot translate; it can sample, encode, decode"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_served_model_answers_and_refuses_what_the_server_would_cut_to_fit(project: Path) -> None:
    """MLflow's server makes an int64 input of 1.7 a 1; `mlflow models serve` calls this function."""
    from mlflow.pyfunc.scoring_server import invocations

    plain, _, _ = saved(project, "cvae", width=8, latent=4)

    def asked(seeds: list[Any], labels: list[Any]) -> tuple[int, str]:
        request = json.dumps({"inputs": {"seeds": seeds, "labels": labels}})
        answer = invocations(request, "application/json", plain, plain.metadata.get_input_schema())
        return answer.status, answer.response

    status, content = asked([0, 5], [1, 2])
    expected = plain.get_raw_model().sample([0, 5], [1, 2])
    assert status == 200
    np.testing.assert_allclose(json.loads(content)["predictions"], expected, atol=1e-6)
    for seeds, labels in (([1.7], [0]), ([1, 2], [0]), ([1], [4])):
        with pytest.raises(Exception, match="error while evaluating the model"):
            asked(seeds, labels)


def test_codes_that_do_not_exist_are_refused(project: Path) -> None:
    plain, _, _ = saved(project, "vqvae", width=8, codes=12, grid=4, embedding=3)
    raw = plain.get_raw_model()
    codes = raw.encode(PIXELS)["codes"]
    assert codes.dtype == np.int64 and raw.decode(codes).shape == (3, 1, 16, 16)
    np.testing.assert_allclose(raw.decode({"codes": codes}), raw.reconstruct(PIXELS), atol=1e-6)
    for wrong, words in (
        (codes * 0 + 12, "must lie in 0 to 11"),
        (codes - 12, "must lie in"),
        (codes + 0.5, "integers"),
    ):
        with pytest.raises(ValueError, match=words):
            raw.decode(wrong)
