"""`purejaxppo bench --gpu`, with the CPU and tiny sizes standing in for a GPU."""

import gzip
import json

import purejaxppo as pjp
from purejaxppo.cli.bench import gpu
from purejaxppo.cli.bench.gpu import Case, make_cases, measure, read_kernels
from purejaxppo.cli.bench.run import make_plan, show_table

CONFIG = pjp.PPOConfig(num_envs=2, num_steps=4, total_timesteps=16, hidden_sizes=(2,), num_minibatches=1)


def test_populations_large_runs_switches_and_kernels_are_measured():
    cases = {case.name: case for case in make_cases(CONFIG, make_plan("gpu", CONFIG, {}))}
    assert [case.num_seeds for name, case in cases.items() if name.startswith("train")] == [1, 64, 1024, 2048, 8192]
    assert cases["one run of 2048 x 32"].config.num_minibatches == 32
    assert cases["one run of 8192 x 32"].config.total_timesteps == 8 * 8192 * 32
    assert {case.num_seeds for case in cases.values() if case.flags} == {1, 2048}
    assert [case.name for case in cases.values() if case.has_kernels] == ["by kernel, 2048 seeds"]
    few = make_plan("quick", CONFIG, {"seeds": [3], "repeats": 4})
    assert {(case.num_seeds, case.flags) for case in make_cases(CONFIG, few) if case.flags} == {
        (3, flags) for flags in gpu.SWITCHES.values()
    }


def test_a_training_is_timed_without_its_compilation(monkeypatch):
    seen, real = [], gpu.train_population

    def train(*given, **keywords):
        seen.append(real(*given, **keywords))
        return seen[-1]

    monkeypatch.setattr(gpu, "train_population", train)
    row = measure(Case("two", CONFIG, 2, repeats=1))
    assert row["values"] == [x.costs.timesteps / x.costs.train_seconds for x in seen[1:]]
    assert row["compile_seconds"] == seen[0].compile_seconds > seen[1].compile_seconds
    assert row["chunks"] == 1
    assert row["remark"] == f"compiled in {row['compile_seconds']:.1f} s"
    json.dumps(row)


def test_kernels_are_counted_for_each_update(tmp_path):
    def event(pid, name, micros):
        return {"ph": "X", "pid": pid, "name": name, "dur": micros}

    places = [{"ph": "M", "name": "process_name", "pid": i, "args": {"name": x}} for i, x in enumerate(["host", "GPU"])]
    places[1]["args"]["name"] = "/device:GPU:0"
    events = [*places, event(1, "gemm", 4), event(1, "gemm", 6), event(1, "sort", 1), event(0, "python", 99)]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.trace.json.gz").write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    kernels = read_kernels(tmp_path, num_updates=2)
    assert [(row["median"], row["remark"]) for row in kernels] == [(5.0, "1.0 calls  gemm"), (0.5, "0.5 calls  sort")]


def test_a_measurement_that_fails_leaves_the_others(monkeypatch):
    monkeypatch.setattr(gpu, "LARGE_RUNS", ())
    monkeypatch.setattr(gpu, "SWITCHES", {"nonsense": "--xla_no_such_switch=1"})
    case = {"device": "A Card", "median": 2e6, "least": 1e6, "most": 3e6, "unit": "env-steps/s", "remark": "quickly"}
    kernel = {"name": "a kernel", "median": 5.0, "unit": "us an update", "remark": "gemm"}
    real = gpu.measure_apart
    monkeypatch.setattr(
        gpu, "measure_apart", lambda given: real(given) if given.flags else case | {"kernels": [kernel]}
    )
    report = gpu.run_gpu_bench(CONFIG, make_plan("quick", CONFIG, {"seeds": [2]}), say=lambda name: None)
    assert report["machine"]["device"] == "A Card"
    (failed,) = (row for row in report["measured"] if row["remark"].startswith("failed"))
    assert failed["name"] == "nonsense, 2 seeds"
    assert "xla_no_such_switch" in failed["remark"]
    lines = show_table(json.loads(json.dumps(report))).splitlines()
    assert lines[3].split()[3:] == ["2,000,000", "1,000,000", "3,000,000", "env-steps/s", "quickly"]
    assert lines[4].split() == ["a", "kernel", "5", "us", "an", "update", "gemm"]
    assert any(line.startswith("nonsense, 2 seeds") and "failed: " in line for line in lines)


def test_without_a_gpu_the_option_is_refused(refused, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert "--gpu needs a GPU" in refused(["bench", "--gpu"])
