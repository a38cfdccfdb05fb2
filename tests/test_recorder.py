"""What was recorded comes back, whole, also after a crash and from a disk that does not answer."""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from mjx_exo.errors import UserError
from runtime.convert import to_csv, to_parquet
from runtime.live import LivePlot
from runtime.messages import Sensor
from runtime.outlet import Outlet
from runtime.recorder import COLUMNS, DTYPE, Recorder, load_recording
from runtime.summary import LatencyHistogram, Tally, table

ROOT = Path(__file__).resolve().parent.parent


def row(i: int) -> list:
    """A row whose every value depends on i and on the column."""
    return [(i + place) % 200 if column.code in "BH" else i + 0.5 * place if column.code in "df" else i
            for place, column in enumerate(COLUMNS)]  # fmt: skip


def record(folder: Path, rows: int) -> Recorder:
    recorder = Recorder(folder, {"wearer_mass_kg": 70.0})
    for i in range(rows):
        recorder.add(*row(i))
    return recorder


def test_rows_events_and_summary_come_back(tmp_path):
    recorder = record(tmp_path / "a", 1000)
    recorder.event(1.5, "stage", stage="READY", text="ready")
    recorder.close({"frames": 1000})
    recorder.close()
    recording = load_recording(tmp_path / "a")
    assert recording.rows.dtype == DTYPE and len(recording.rows) == 1000
    assert recording.rows[17].tolist() == tuple(row(17))
    assert recording.header["wearer_mass_kg"] == 70.0
    assert recording.events == [{"time_s": 1.5, "kind": "stage", "stage": "READY", "text": "ready"}]
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == {"frames": 1000}


def test_a_killed_process_loses_nothing_it_had_recorded(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from test_recorder import record
        recorder = record(Path(sys.argv[1]), 5000)
        recorder.event(0.0, "last", text="words")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    for _ in range(200):
        if len(load_recording(folder).rows) == 5000 and load_recording(folder).events:
            break
        time.sleep(0.05)
    assert len(load_recording(folder).rows) == 5000 and load_recording(folder).events[0]["kind"] == "last"


def test_half_a_row_at_the_end_is_left_out(tmp_path):
    record(tmp_path / "a", 10).close()
    data = (tmp_path / "a" / "rows.bin").read_bytes()
    (tmp_path / "a" / "rows.bin").write_bytes(data[:-5])
    (tmp_path / "a" / "events.jsonl").write_text('{"time_s": 1.0, "kind": "a"}\n{"time_s"')
    recording = load_recording(tmp_path / "a")
    assert len(recording.rows) == 9 and len(recording.events) == 1


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    with pytest.raises(UserError, match="not empty"):
        Recorder(tmp_path / "full", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Recorder(tmp_path / "file" / "below", {})
    with pytest.raises(UserError, match="cannot be read"):
        load_recording(tmp_path / "absent")


def test_a_reader_that_does_not_read_costs_data_and_no_time():
    read_end, write_end = os.pipe()
    outlet = Outlet(write_end)
    taken = sum(outlet.write(bytes(1024)) for _ in range(4096))
    assert 0 < taken < 4096 and outlet.lost == 4096 - taken
    os.close(read_end)
    os.close(write_end)
    outlet.close()


def test_a_full_disk_is_told(tmp_path):
    with open("/dev/full", "wb") as full:
        outlet = Outlet(full)
    for _ in range(200):
        outlet.write(bytes(1024))
        if outlet.broken:
            break
        time.sleep(0.02)
    assert outlet.broken and not outlet.write(b"more")
    assert not outlet.close()


def test_csv_has_every_column_in_full_precision(tmp_path):
    record(tmp_path / "a", 20).close()
    recording = load_recording(tmp_path / "a")
    to_csv(recording, tmp_path / "rows.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert list(lines[0]) == [column.name for column in COLUMNS]
    for name in DTYPE.names:
        values = np.array([float(line[name]) for line in lines]).astype(DTYPE[name])
        np.testing.assert_array_equal(values, recording.rows[name])


def test_parquet_or_one_line_that_says_what_to_install(tmp_path):
    record(tmp_path / "a", 20).close()
    recording = load_recording(tmp_path / "a")
    try:
        from pyarrow import parquet
    except ImportError:
        with pytest.raises(UserError, match="pyarrow"):
            to_parquet(recording, tmp_path / "rows.parquet")
        return
    to_parquet(recording, tmp_path / "rows.parquet")
    table_read = parquet.read_table(tmp_path / "rows.parquet")
    np.testing.assert_array_equal(table_read["gyro_r"].to_numpy(), recording.rows["gyro_r"])


def test_live_curves_are_json_datagrams_at_a_limited_rate():
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as viewer:
        viewer.bind(("127.0.0.1", 0))
        viewer.settimeout(2.0)
        live = LivePlot(f"127.0.0.1:{viewer.getsockname()[1]}", rate_hz=50.0)
        sent = 0
        for i in range(100):
            if live.due(i * 0.01):
                live.send(i * 0.01, {"torque_nm": [1.0, -1.0]})
                sent += 1
        assert 45 <= sent <= 51
        assert json.loads(viewer.recv(4096)) == {"timestamp": 0.0, "torque_nm": [1.0, -1.0]}
        live.close()
    with pytest.raises(UserError, match="port must be a number"):
        LivePlot("127.0.0.1:x")


def test_percentiles_are_those_of_the_values():
    values = np.random.default_rng(0).gamma(2.0, 3e-4, 20_000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    for share in (0.5, 0.99, 0.999):
        assert histogram.percentile(share) == pytest.approx(np.quantile(values, share), abs=1.5e-5)
    assert histogram.largest_s == values.max()
    histogram.add(9.0)
    assert histogram.percentile(1.0) <= 9.0 and math.isnan(LatencyHistogram().percentile(0.5))


def test_every_frame_is_accounted_for_in_the_table():
    tally = Tally(frames=10, answered=6, superseded=2, repeated=1, first_s=0.0, last_s=0.09)
    assert tally.unaccounted == 1 and tally.rate_hz == pytest.approx(100.0)
    for sequence in (8, 9, 10):  # the answer to 7 took 4 ms to reach the device, the one to 9 took 6 ms
        echo, after_us = (7, 4000) if sequence < 10 else (9, 6000)
        tally.arrived(Sensor(sequence, 10_000 * sequence, (0.0, 0.0), applied_echo=echo, applied_after_us=after_us))
    assert tally.arrival.count == 2 and tally.to_dict()["sample_to_device"]["max_ms"] == pytest.approx(6.0)
    extra = {"link_rejected": 3, "scheduling": "ordinary", "recording": "none", "ended": "by command"}
    text = table({**tally.to_dict(), **extra})
    assert "1 unaccounted for" in text and "3 damaged frames" in text and "by command" in text
