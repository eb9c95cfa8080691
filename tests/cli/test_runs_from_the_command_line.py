"""`run`, and what it leaves for `runs` and `checkpoints`."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from command_line import ENDLESS, ORDERS, PRINTED, answer, cli, command, environment, write


def test_a_run_writes_and_says_so_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    done = cli("run", "orders.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "dear.csv").read_text() == "id,country,amount\n2,FR,20\n3,DE,30\n"
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("orders: finished in ")
    assert "3 rows read" in line
    assert line.endswith("2 rows written to out/dear.csv")


def test_quiet_says_nothing_but_rows_still_come(tmp_path: Path) -> None:
    write(tmp_path, "printed.yaml", PRINTED)
    done = cli("run", "printed.yaml", "--quiet", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"id": i} for i in range(3)]


def test_json_is_alone_on_standard_output_and_rows_go_to_standard_error(tmp_path: Path) -> None:
    write(tmp_path, "printed.yaml", PRINTED)
    done = cli("run", "printed.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = answer(done)
    assert told["workflow"] == "printed"
    assert told["status"] == "finished"
    assert told["error"] is None
    assert told["steps"]["numbers"]["rows_out"] == 3
    assert [line for line in done.stderr.splitlines() if line.startswith("{")] == [
        '{"id":0}',
        '{"id":1}',
        '{"id":2}',
    ]


def test_parameters_settings_and_overlays_reach_the_workflow(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    write(tmp_path, "prod.yaml", "destinations: {out: {config: {path: prod.csv}}}\n")
    options = ["--param", "least=25", "--set", "settings.parallelism=1", "--overlay", "prod.yaml"]
    done = cli("run", "orders.yaml", *options, "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prod.csv").read_text() == "id,country,amount\n3,DE,30\n"


def test_a_missing_input_fails_the_run_with_1(tmp_path: Path) -> None:
    text = ORDERS.partition("\nsources:")[0] + (
        "\nsources: {rows: {type: file, config: {path: nowhere.csv}}}\n"
        "destinations: {out: {type: file, inputs: [rows], config: {path: out.csv}}}\n"
    )
    write(tmp_path, "orders.yaml", text)
    done = cli("run", "orders.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert answer(done)["error"]["code"] == "E0601"
    assert "error[E0601]: " in done.stderr
    assert "nowhere.csv" in done.stderr


def test_an_interrupt_ends_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    write(tmp_path, "endless.yaml", ENDLESS)
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command("run", "endless.yaml"),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert "interrupted after" in said.splitlines()[-1]
    assert "resumed from checkpoint" in said


def test_a_second_signal_ends_the_run_at_once_even_while_a_step_is_busy(tmp_path: Path) -> None:
    write(
        tmp_path,
        "busy.py",
        "import time\n\n\ndef wait(frame):\n    print('busy', flush=True)\n    time.sleep(60)\n",
    )
    text = ENDLESS.replace("[numbers]", "[slow]").replace(
        "destinations:",
        'transformations:\n  slow: {type: python, inputs: [numbers], config: {function: "busy:wait", '
        "schema: {id: int64}}}\ndestinations:",
    )
    write(tmp_path, "endless.yaml", text)
    process = subprocess.Popen(
        command("run", "endless.yaml"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 130
    process.stdout.close()


def test_a_reader_that_goes_away_ends_the_run_without_a_word(tmp_path: Path) -> None:
    for name, text in (
        ("endless", ENDLESS),
        ("long", ENDLESS.replace("rate: 200/s", "rows: 9000000")),
    ):
        write(tmp_path, f"{name}.yaml", text.replace("name: endless", f"name: {name}"))
        process = subprocess.Popen(
            command("run", f"{name}.yaml"),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"id": 0}
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""
        (record,) = json.loads(cli("runs", name, "--json", cwd=tmp_path).stdout)
        assert record["status"] == "stopped"


def test_a_run_with_an_end_goes_on_for_its_other_destinations(tmp_path: Path) -> None:
    text = PRINTED.replace("rows: 3", "rows: 300000, rate: 300000/s") + (
        "  kept: {type: file, inputs: [numbers], config: {path: kept.csv}}\n"
    )
    write(tmp_path, "both.yaml", text)
    process = subprocess.Popen(
        command("run", "both.yaml", "-q"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
    assert len((tmp_path / "kept.csv").read_text().splitlines()) == 300_001


def test_for_ends_with_0_and_status_stopped(tmp_path: Path) -> None:
    write(tmp_path, "endless.yaml", ENDLESS)
    done = cli("run", "endless.yaml", "--for", "300ms", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert answer(done)["status"] == "stopped"


def test_runs_and_checkpoints_tell_what_a_run_left(tmp_path: Path) -> None:
    write(tmp_path, "endless.yaml", ENDLESS)
    first = answer(cli("run", "endless.yaml", "--for", "300ms", "--json", cwd=tmp_path))
    listed = json.loads(cli("runs", "endless", "--json", cwd=tmp_path).stdout)
    assert [(record["run_id"], record["status"]) for record in listed] == [
        (first["run_id"], "stopped")
    ]
    table = cli("runs", cwd=tmp_path).stdout
    assert first["run_id"] in table
    assert "endless" in table
    kept = json.loads(cli("checkpoints", "endless", "--json", cwd=tmp_path).stdout)
    assert kept
    assert all(each["usable"] for each in kept)
    newest = kept[0]["epoch"]
    said = cli("checkpoints", "endless", cwd=tmp_path).stdout
    assert f"the next run resumes from checkpoint {newest}" in said
    shown = cli("checkpoints", "endless", str(newest), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "source numbers" in shown.stdout
    assert cli("checkpoints", "endless", "--verify", cwd=tmp_path).returncode == 0


def test_verify_finds_a_damaged_checkpoint_and_ends_with_1(tmp_path: Path) -> None:
    write(tmp_path, "endless.yaml", ENDLESS)
    assert cli("run", "endless.yaml", "--for", "300ms", "-q", cwd=tmp_path).returncode == 0
    newest = max((tmp_path / ".dataflare" / "endless").glob("*/manifest-*.json"))
    newest.write_bytes(newest.read_bytes()[:-20])
    done = cli("checkpoints", "endless", "--verify", cwd=tmp_path)
    assert done.returncode == 1
    assert "damaged: " in done.stdout


def test_nothing_has_run_yet(tmp_path: Path) -> None:
    for name in ("runs", "checkpoints"):
        done = cli(name, cwd=tmp_path, DATAFLARE_HOME=str(tmp_path / "elsewhere"))
        assert done.returncode == 0
        assert done.stdout == f"nothing has run here yet ({tmp_path / 'elsewhere'})\n"
    assert cli("runs", "--json", cwd=tmp_path).stdout == "[]\n"


def test_an_unknown_checkpoint_is_a_wrong_command_line(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    assert cli("run", "orders.yaml", "-q", cwd=tmp_path).returncode == 0
    done = cli("checkpoints", "orders", "4711", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no checkpoint 4711" in done.stderr
