"""Laws of a session: a stage that is forked is, for DVC and for the user, the process that DVC started."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in_dvc import ROOT, Dvc, lives, until, waiting_pid

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every stage is a process of its own")
# Loaded in the server, and then known to be there: what a stage needs, in place of torch.
NEEDED = "import os\nPID = os.getpid()\n"
STAGE = """
import gc, json, os, signal, sys, time
from typing import Annotated
import typer
from pipeline.stages import entry
from pipeline.stages.entry import run_stage

entry.TRACKING = ("tracker",)


def main(what: str, value: Annotated[str, typer.Argument()] = "") -> None:
    if what == "tell":
        import needed
        stdin = sys.stdin.read()
        told = {"pid": os.getpid(), "loaded_in": needed.PID, "value": value, "cwd": os.getcwd(), "stdin": stdin}
        told |= {"environment": os.environ["OF_THE_STAGE"], "main": sys.modules["__main__"].__spec__.name}
        told |= {"collects": gc.isenabled(), "loaded": [name for name in ("needed", "tracker") if name in sys.modules]}
        if "tracker" in sys.modules:
            told["tracker_loaded_in"] = sys.modules["tracker"].PID
        print(json.dumps(told), flush=True)
        print("to the other stream", file=sys.stderr)
    elif what == "exit":
        raise SystemExit(int(value))
    elif what == "die":
        os.kill(os.getpid(), int(value))
    elif what == "raise":
        raise RuntimeError("this went wrong")
    elif what == "wait":
        def end(number, frame):
            time.sleep(float(value or 0))  # as long as a checkpoint takes
            open("checkpoint", "w").close()
            sys.exit(7)

        signal.signal(signal.SIGTERM, end)
        print(os.getpid(), flush=True)
        time.sleep(60)


if __name__ == "__main__":
    before, wanted = sys.argv[1], {"trains": ((), ("tracker",)), "tracks": (("tracker",), ())}
    needs, soon = wanted.get(before, ((), ()))
    del sys.argv[1 : 1 + (before in wanted)]
    run_stage(main, "needed", *needs, soon=soon)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "needed.py").write_text(NEEDED)
    (tmp_path / "tracker.py").write_text(NEEDED)
    (tmp_path / "stage.py").write_text(STAGE)
    return tmp_path


@pytest.fixture
def dvc(project: Path) -> Iterator[Dvc]:
    found = Dvc(project)
    yield found
    found.kill()


def test_stages_share_what_is_loaded_once(dvc: Dvc) -> None:
    assert dvc.run("tell", "1") == 0
    first = dvc.told()
    assert dvc.run("tell", "2") == 0
    second = dvc.told()
    assert first["loaded_in"] == second["loaded_in"] != os.getpid()
    assert len({first["pid"], second["pid"], first["loaded_in"]}) == 3


def test_what_others_need_is_loaded_beside_what_a_training_is_forked_from(dvc: Dvc) -> None:
    found = {}
    for place, words in enumerate((["trains"], ["trains"], [], ["tracks"], ["tracks"])):
        assert dvc.run(*words, "tell", str(place)) == 0
        found[place] = dvc.told()
        assert found[place]["value"] == str(place) and found[place]["collects"]
        assert dvc.folders()[0].joinpath("later").exists()
    assert [found[place]["loaded"] for place in range(5)] == [["needed"]] * 3 + [["needed", "tracker"]] * 2
    assert len({found[place]["loaded_in"] for place in range(5)}) == 1, "the second is a fork of the first"
    seconds = {found[place]["tracker_loaded_in"] for place in (3, 4)}
    assert len(seconds) == 1 and seconds.isdisjoint({found[0]["loaded_in"], found[3]["pid"], found[4]["pid"]})
    second = int(str(seconds.pop()))
    assert lives(second)
    dvc.kill()
    assert until(lambda: not lives(second))
    assert until(lambda: not dvc.folders())


def test_without_a_training_before_it_a_stage_loads_what_it_needs(dvc: Dvc) -> None:
    assert dvc.run("tracks", "tell") == 0
    told = dvc.told()
    assert told["loaded_in"] == told["tracker_loaded_in"] != told["pid"]


def test_a_second_server_that_was_killed_is_done_without(dvc: Dvc) -> None:
    assert dvc.run("trains", "tell") == 0 and dvc.run("tracks", "tell") == 0
    second = int(str(dvc.told()["tracker_loaded_in"]))
    os.kill(second, signal.SIGKILL)
    assert until(lambda: not lives(second))
    assert dvc.run("tracks", "tell") == 0
    assert dvc.told()["tracker_loaded_in"] == dvc.told()["loaded_in"]


def test_the_second_server_of_one_that_was_killed_leaves_the_next_one_alone(dvc: Dvc) -> None:
    assert dvc.run("trains", "tell") == 0
    first = int(str(dvc.told()["loaded_in"]))
    assert dvc.run("tracks", "tell") == 0
    second = int(str(dvc.told()["tracker_loaded_in"]))
    os.kill(second, signal.SIGSTOP)  # so that it sees the first one's end when there is another
    os.kill(first, signal.SIGKILL)
    assert until(lambda: not lives(first))
    assert dvc.run("tell") == 0
    replaced = dvc.told()["loaded_in"]
    os.kill(second, signal.SIGCONT)
    assert until(lambda: not lives(second))
    assert dvc.run("tracks", "tell") == 0
    assert dvc.told()["loaded_in"] == replaced != first


def test_a_fork_has_what_its_process_would_have(dvc: Dvc) -> None:
    assert dvc.run("tell", "x", before="echo put in |", after="> told 2> said") == 0
    told = dvc.told()
    assert (told["value"], told["stdin"], told["environment"]) == ("x", "put in\n", "yes")
    assert (told["cwd"], told["main"]) == (str(dvc.project), "stage")
    assert (dvc.project / "said").read_text() == "to the other stream\n"


@pytest.mark.parametrize(("arguments", "code"), [(("exit", "0"), 0), (("exit", "3"), 3), (("die", "9"), 128 + 9)])
def test_its_end_is_the_process_end(dvc: Dvc, arguments: tuple[str, ...], code: int) -> None:
    assert dvc.run(*arguments) == code
    assert dvc.run("exit", "5") == 5  # and the next one runs


@pytest.mark.parametrize(("number", "said"), [(9, "9 (SIGKILL, often the kernel's"), (11, "11. Run"), (15, None)])
def test_a_signal_that_nobody_asked_for_is_said(dvc: Dvc, number: int, said: str | None) -> None:
    assert dvc.run("die", str(number)) == 128 + number
    found = (dvc.project / "said").read_text()
    if said is None:
        assert "error" not in found
    else:
        assert f"error: the stage's process was ended by signal {said}" in found
        assert "Run `dvc repro` again: a training goes on from its last checkpoint." in found


def test_an_error_has_its_traceback(dvc: Dvc) -> None:
    assert dvc.run("raise") == 1
    said = (dvc.project / "said").read_text()
    assert "this went wrong" in said
    assert "Traceback (most recent call last)" in said


def test_changed_code_is_what_runs(dvc: Dvc) -> None:
    assert dvc.run("exit", "3") == 3
    (dvc.project / "stage.py").write_text(STAGE.replace("int(value)", "int(value) + 1"))
    assert dvc.run("exit", "3") == 4


def test_a_signal_is_handed_on(dvc: Dvc) -> None:
    dvc.begin("wait", after="> told & echo $! > waits; wait $!")
    waiting_pid(dvc)
    os.kill(int((dvc.project / "waits").read_text()), signal.SIGTERM)
    assert dvc.end() == 7


def test_a_signal_to_all_of_dvcs_processes_leaves_a_stage_its_time(project: Path) -> None:
    dvc = Dvc(project, start_new_session=True)
    dvc.begin("wait", "1")
    fork = waiting_pid(dvc)
    os.killpg(dvc.process.pid, signal.SIGTERM)
    assert until(lambda: not lives(fork))
    assert (project / "checkpoint").exists()
    assert until(lambda: not dvc.folders())
    dvc.kill()


def test_without_room_for_a_second_server_the_first_goes_on(dvc: Dvc) -> None:
    assert dvc.run("tell") == 0
    (dvc.folders()[0] / "later").touch()  # so that it cannot have its socket
    assert dvc.run("trains", "exit", "3") == 3
    assert dvc.run("tracks", "tell") == 0
    told = dvc.told()
    assert told["loaded_in"] == told["tracker_loaded_in"]


def test_who_waits_is_killed_and_so_is_the_fork(dvc: Dvc) -> None:
    dvc.begin("wait", after="> told & echo $! > waits; wait $!")
    fork = waiting_pid(dvc)
    os.kill(int((dvc.project / "waits").read_text()), signal.SIGKILL)
    assert dvc.end() == 128 + 9
    assert until(lambda: not lives(fork))


def test_all_of_it_is_gone_after_dvc(dvc: Dvc) -> None:
    assert dvc.run("tell") == 0
    server = int(str(dvc.told()["loaded_in"]))
    assert lives(server)
    assert dvc.folders()
    dvc.kill()
    assert until(lambda: not lives(server))
    assert until(lambda: not dvc.folders())


def test_a_server_that_was_killed_is_replaced(dvc: Dvc) -> None:
    assert dvc.run("tell") == 0
    server = int(str(dvc.told()["loaded_in"]))
    os.kill(server, signal.SIGKILL)
    assert until(lambda: not lives(server))
    assert dvc.run("tell") == 0
    assert dvc.told()["loaded_in"] != server


def test_a_stage_of_a_killed_server_says_so(dvc: Dvc) -> None:
    assert dvc.run("tell") == 0
    server = int(str(dvc.told()["loaded_in"]))
    (dvc.project / "told").unlink()
    dvc.begin("wait")
    fork = waiting_pid(dvc)
    os.kill(server, signal.SIGKILL)
    assert dvc.end() == 1
    assert "Run `dvc repro` again" in (dvc.project / "said").read_text()
    assert until(lambda: not lives(fork))


def test_it_can_be_turned_off(dvc: Dvc) -> None:
    assert dvc.run("tell", before="GENLOOM_SESSION=off") == 0
    told = dvc.told()
    assert told["pid"] == told["loaded_in"]
    assert not dvc.folders()


def test_without_dvc_a_stage_is_its_own_process(project: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"PYTHONPATH": f"{project}:{ROOT}", "OF_THE_STAGE": "no"}
    command = [sys.executable, "-m", "stage", "tell"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, input="", text=True, check=True)
    told = json.loads(done.stdout)
    assert told["pid"] == told["loaded_in"]
