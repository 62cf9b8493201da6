"""The machine's speed on one GPU, in at most 8 minutes: run it once wherever there is one.

    python bench/gpu.py [--to gpu.json] [--methods dcgan biggan ...] [--tiny]

Needs torch >= 2.11 and numpy, and the files of this repository; nothing is installed or downloaded. Prints a table as
it goes, and writes gpu.json after every row, so what is measured stays whatever happens later. Each method runs in a
process of its own that is stopped when its time is up; a row that fails says so, and the others go on. --tiny tries the
script with nets of a few channels, on a CPU too.

plain: a plain loop of the same nets and losses: contiguous tensors, torch.optim.Adam as it comes, float images on the
device, no average. ours: pipeline.core's loop, with its average, logs, and images on the device. graphs: the same with
whole phases captured as CUDA graphs, where this version has that. MFU is of the published dense rate where the GPU is
known, in bf16; "of GEMM" of a large product measured here, in the same precision.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import bare

SECONDS = 460.0  # for all; the rest of 8 minutes is for the start
VARIANTS = ("plain fp32", "plain bf16", "ours fp32", "ours bf16", "graphs bf16")
# name: method, pixels, batch, params; and of --tiny. BigGAN is the paper's of 128 pixels but for the batch.
ROWS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "dcgan": ("dcgan", 32, 128, {"width": 64}),
    "sngan": ("sngan", 32, 64, {"width": 128}),
    "biggan": ("biggan", 32, 64, {"width": 64, "max_width": 256}),
    "biggan 128": ("biggan", 128, 64, {"width": 96, "max_width": 1536, "latent": 120, "embedding": 128}),
    "stylegan2 128": ("stylegan2", 128, 32, {"width": 128, "max_width": 512, "latent": 512, "mapping_layers": 8}),
    "r3gan": ("r3gan", 32, 128, {"width": 192, "max_width": 768}),
    "glow": ("glow", 32, 64, {"steps": 8, "width": 128}),
    "vae": ("vae", 32, 128, {"width": 64}),
}
TINY: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "dcgan": ("dcgan", 16, 4, {"width": 4}),
    "sngan": ("sngan", 16, 4, {"width": 4}),
    "biggan": ("biggan", 16, 4, {"width": 4, "max_width": 8}),
    "biggan 128": ("biggan", 32, 2, {"width": 4, "max_width": 8}),
    "stylegan2 128": ("stylegan2", 32, 4, {"width": 4, "max_width": 8}),
    "r3gan": ("r3gan", 16, 4, {"width": 16, "max_width": 16}),
    "glow": ("glow", 16, 4, {"steps": 1, "width": 4}),
    "vae": ("vae", 16, 4, {"width": 4}),
}
OTHERS = ("data", "checkpoint")
# Dense bf16 rates that NVIDIA publishes, by what torch calls the GPU.
PUBLISHED = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
NVIDIA_SECONDS = 6.79  # StyleGAN2 at 128 pixels, 1,000 images, one A100
WARM_UP, STRIDE = 5, 5  # iterations
MEGA = 2**20


def plain(method: Any, nets: Any, batches: Iterator[Any], precision: str, device: Any) -> Iterator[None]:
    """The loop that one would write: each phase's loss, backward, step."""
    import torch

    from pipeline.core.batch import Clock

    phases, seen = method.phases(), 0
    optimizers = {}
    for phase in phases:
        parameters = [parameter for net in phase.trains for parameter in nets[net].parameters()]
        made = phase.optimizer(parameters).defaults
        chosen = {key: made[key] for key in ("lr", "betas", "eps", "weight_decay") if key in made}
        optimizers[phase.name] = torch.optim.Adam(parameters, **chosen)
    for count in range(10**9):
        for phase in phases:
            for _ in range(phase.repeats):
                batch = next(batches)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss, _ = phase.loss(nets, batch.stream(phase.name), Clock(seen=seen, total=10**7, iteration=count))
                optimizers[phase.name].zero_grad()
                loss.backward()
                optimizers[phase.name].step()
        seen += len(batch) * max(phase.repeats for phase in phases)
        yield


def plain_batches(split: Any, batch_size: int, device: Any) -> Iterator[Any]:
    """Random rows of float images on the device."""
    import torch

    from pipeline.core.batch import Batch
    from pipeline.core.noise import Noise

    images = torch.from_numpy(split.store.read(range(len(split)))).to(device).permute(0, 3, 1, 2).contiguous()
    images, labels = images.float().div_(127.5).sub_(1), torch.as_tensor(split.labels).to(device)
    for seen in range(0, 10**12, batch_size):
        rows = torch.randint(len(images), (batch_size,), device=device)
        ids = torch.arange(seen, seen + batch_size, device=device)
        yield Batch(images=images[rows], labels=labels[rows], noise=Noise(0, ids))


def loop(variant: str, row: Any, split: Any, device: Any, *, mapped: bool = False) -> tuple[Iterator[Any], int]:
    """A variant's iterations, and images of each."""
    import torch

    from pipeline.core.batch import ImageSpec
    from pipeline.core.loop import Settings, fit
    from pipeline.core.state import State
    from pipeline.core.world import World
    from pipeline.data.feed import moved
    from pipeline.data.stream import batches

    (name, size, batch_size, params), (kind, precision) = row, variant.split()
    method, spec = bare.method(name, **params), ImageSpec(channels=3, size=size, classes=10)
    repeats = max(phase.repeats for phase in method.phases())
    torch.manual_seed(0)
    if kind == "plain":
        nets = method.build(spec).to(device).train()
        feed = plain_batches(split, batch_size, device)
        method.initialize(nets, next(feed), World(device=device))
        return plain(method, nets, feed, precision, device), batch_size * repeats
    settings = {"precision": precision}
    if kind == "graphs":
        if "graphs" not in {field.name for field in fields(Settings)}:
            raise NotImplementedError("this version captures no graphs")
        if device.type != "cuda":
            raise NotImplementedError("there is no GPU")
        settings["graphs"] = True
    state, world = State.fresh(method, spec, 0, device), World(device=device)
    split = split if mapped or device.type != "cuda" else moved(split, device)
    stream = batches(split, seed=0, batch_size=batch_size, world=world)
    fitting = fit(method, state, stream, world, seed=0, total=10**7, ema_half_life=2000.0,
                  settings=Settings(**settings))  # fmt: skip
    return fitting, batch_size * repeats


def clock(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def speed(iterations: Iterator[Any], images: int, seconds: float, device: Any) -> float:
    """Images/s after a warm-up, for about so long."""
    at_once = STRIDE if device.type == "cuda" else 1  # how many are given to a GPU before it is waited for
    for _ in islice(iterations, WARM_UP if device.type == "cuda" else 1):
        pass
    begin = now = clock(device)
    count = 0
    while count == 0 or now - begin < seconds:
        for _ in islice(iterations, at_once):
            count += 1
        now = clock(device)
    return images * count / (now - begin)


def measure(variant: str, row: Any, split: Any, seconds: float, rates: dict[str, Any], device: Any) -> dict[str, Any]:
    """All numbers of a variant."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from pipeline.training.work import Counting, gpu_share

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    iterations, images = loop(variant, row, split, device)
    rate = speed(iterations, images, seconds, device)
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    found = {"images_per_second": rate, "memory_mib": memory / MEGA, "seconds_per_1000": 1000 / rate}
    if on_gpu:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            begin = clock(device)
            for _ in islice(iterations, 4):
                pass
            taken = clock(device) - begin
        found["busy"] = gpu_share(profiler, taken)
    if not variant.startswith("graphs"):  # replayed, nothing is seen
        with Counting(rates[variant.split()[1]]) as counting:
            next(iterations)
        found["flops_per_image"] = sum(work.flops for work in counting.work.values()) / images
    return found


def with_rates(found: dict[str, Any], flops: float, variant: str, rates: dict[str, Any], gpu: str) -> dict[str, Any]:
    """The same with shares of the machine's arithmetic."""
    precision = variant.split()[1]
    done = flops * found["images_per_second"]
    found["of_gemm"] = done / rates[precision].flops
    known = next((rate for name, rate in PUBLISHED.items() if name in gpu), None)
    if known and precision == "bf16":
        found["mfu"] = done / known
    return found


def each_variant(row: Any, seconds: float, say: Callable[[str, dict[str, Any]], None], device: Any, gpu: str) -> None:
    """Measure a method's variants; what fails is said, and the next one follows."""
    import torch

    from pipeline.training.work import measured

    rates = {precision: measured(device, precision) for precision in ("fp32", "bf16")}
    split, flops = bare.random_split(4 * row[2] + 2048 * (device.type == "cuda"), row[1]), 0.0
    for variant in VARIANTS:
        try:
            found = measure(variant, row, split, seconds, rates, device)
            flops = found.get("flops_per_image", flops)
            say(variant, with_rates(found, flops, variant, rates, gpu))
        except NotImplementedError as error:
            say(variant, {"not_run": str(error)})
        except (RuntimeError, ValueError, TypeError) as error:
            say(variant, {"failed": f"{type(error).__name__}: {error}"[:200]})
            if device.type == "cuda":
                torch.cuda.empty_cache()


def data_row(row: Any, seconds: float, say: Callable[[str, dict[str, Any]], None], device: Any) -> None:
    """Images on the device against memory-mapped ones."""
    split = bare.random_split(2048 if device.type == "cuda" else 16, row[1])
    for title, mapped in (("on the device", False), ("memory-mapped", True), ("on the device again", False)):
        iterations, images = loop("ours bf16", row, split, device, mapped=mapped)
        say(title, {"images_per_second": speed(iterations, images, seconds, device)})


def checkpoint_row(millions: float, seconds: float, say: Callable[[str, dict[str, Any]], None], device: Any) -> None:
    """What a state of so many parameters on the device stops training, in line and aside."""
    import tempfile

    import torch

    from pipeline.storage.aside import Aside
    from pipeline.storage.checkpoint import Budgets
    from pipeline.storage.store import Store

    part = int(millions * 1e6 / 100)
    state = {name: [torch.ones(part, device=device) for _ in range(100)] for name in ("nets", "ema", "m", "v")}
    row = (TINY if millions < 1 else ROWS)["dcgan"]
    iterations, images = loop("ours fp32", row, bare.random_split(512, row[1]), device)
    quiet = speed(iterations, images, seconds, device)
    with tempfile.TemporaryDirectory() as place, Aside(Store(Path(place), "bench")) as aside:
        aside.prepare(state)
        aside.finish()
        for seen in (1, 2, 3):
            begin = clock(device)
            Store(Path(place), "bench").save(10 * seen, {"state": state}, Budgets())
            in_line = clock(device) - begin
            begin = clock(device)
            aside.save(10 * seen + 1, {"state": state}, Budgets())
            stopped = time.perf_counter() - begin
            copied = clock(device) - begin
            count, start = 0, time.perf_counter()
            while aside.is_busy:
                count += len(list(islice(iterations, 1)))
                clock(device)
            written = time.perf_counter() - start
            say(f"{millions:g} M parameters, {seen}", {
                "in_line_seconds": in_line, "stopped_seconds": stopped, "copied_seconds": copied,
                "written_seconds": written, "rate_while_written": images * count / max(written, 1e-9) / quiet,
            })  # fmt: skip


def child(args: argparse.Namespace) -> None:
    """Measure one row, and print each result as a line of JSON."""
    import torch

    def say(variant: str, found: dict[str, Any]) -> None:
        print(json.dumps({"variant": variant, **found}), flush=True)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu"
    rows = TINY if args.tiny else ROWS
    if args.only == "data":
        data_row(rows["dcgan"], args.seconds, say, device)
    elif args.only == "checkpoint":
        checkpoint_row(0.1 if args.tiny else 100, args.seconds, say, device)
    else:
        each_variant(rows[args.only], args.seconds, say, device, gpu)


def line(name: str, found: dict[str, Any]) -> str:
    """A result in words."""
    units = {"images_per_second": "{:,.0f} images/s", "busy": "busy {:.0%}", "mfu": "MFU {:.1%}",
             "of_gemm": "{:.1%} of GEMM", "memory_mib": "{:,.0f} MiB", "seconds_per_1000": "{:.2f} s/1000",
             "in_line_seconds": "in line {:.2f} s", "stopped_seconds": "aside {:.3f} s",
             "copied_seconds": "copied {:.3f} s", "written_seconds": "written after {:.1f} s",
             "rate_while_written": "meanwhile {:.0%}", "failed": "FAILED {}", "not_run": "not run: {}"}  # fmt: skip
    parts = [form.format(found[key]) for key, form in units.items() if key in found]
    return f"{name:14} {found['variant']:22} {'  '.join(parts)}"


def run(name: str, args: argparse.Namespace, seconds: float, budget: float) -> list[dict[str, Any]]:
    """Measure a row in a process of its own, for so long at most; print results as they come."""
    command = [sys.executable, __file__, "--only", name, "--seconds", str(seconds), *(["--tiny"] if args.tiny else [])]
    found: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        import threading

        alarm = threading.Timer(budget, process.kill)
        alarm.start()
        errors: list[str] = []
        assert process.stdout and process.stderr
        reading = threading.Thread(target=lambda: errors.extend(process.stderr or []))
        reading.start()
        for text in process.stdout:
            if text.startswith("{"):
                found.append(json.loads(text))
                print(line(name, found[-1]), flush=True)
        code = process.wait()
        in_time = alarm.is_alive()
        alarm.cancel()
        reading.join()
    if code:
        last = next((text.strip() for text in reversed(errors) if text.strip()), f"exit code {code}")
        found.append({"variant": "the rest", "failed": last[:200] if in_time else f"no time: {budget:.0f} s were over"})
        print(line(name, found[-1]), flush=True)
    return found


def main(args: argparse.Namespace) -> None:
    import torch

    begin, names = time.monotonic(), [name for name in (*ROWS, *OTHERS) if not args.methods or name in args.methods]
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU: the CPU"
    print(f"{gpu}; torch {torch.__version__}; at most {SECONDS / 60:.1f} minutes", flush=True)
    result: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "tiny": args.tiny, "rows": {}}
    for place, name in enumerate(names):
        left = SECONDS - (time.monotonic() - begin)
        budget = max(1.0, left / (len(names) - place))
        window = 0.2 if args.tiny else min(5.0, budget / 10)  # half of a row is starting, warming up and profiling
        result["rows"][name] = run(name, args, window, budget)
        args.to.write_text(json.dumps(result, indent=2) + "\n")
    for name, found in result["rows"].items():
        rates = {entry["variant"]: entry.get("images_per_second") for entry in found}
        for precision in ("fp32", "bf16"):
            if rates.get(f"plain {precision}") and rates.get(f"ours {precision}"):
                print(
                    f"{name}: {rates[f'ours {precision}'] / rates[f'plain {precision}']:.2f} times plain, {precision}"
                )
    print(f"{args.to}: written after {time.monotonic() - begin:.0f} s; StyleGAN2 at 128 px, one A100, by NVIDIA: "
          f"{NVIDIA_SECONDS} s/1000")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path("gpu.json"))
    parser.add_argument("--methods", nargs="+", choices=[*ROWS, *OTHERS])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    absent = bare.prepare()
    if options.only:
        child(options)
    else:
        if absent:
            print(f"not installed, and not needed: {', '.join(absent)}")
        main(options)
