"""Tests of `foundation/script.py`: how scripts end."""

import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

from unit_tests.shared import PROJECT_DIR, TIMEOUT_SECONDS, ProjectTest, corpus


class ScriptTest(ProjectTest):
    def run_copy(self, name: str, *arguments: str, change: str = "", **options) -> subprocess.CompletedProcess:
        """Run a script of a copy of the project, whose `myconfig.py` ends with a change."""
        copy = self.dir / "copy"
        if not copy.exists():
            for path in PROJECT_DIR.glob("*/__init__.py"):
                shutil.copytree(path.parent, copy / path.parent.name)
            for path in PROJECT_DIR.glob("*.py"):
                shutil.copy(path, copy)
        config = (PROJECT_DIR / "myconfig.py").read_text(encoding="utf-8")
        (copy / "myconfig.py").write_text(f"{config}\n{change}\n", encoding="utf-8")
        command = [sys.executable, str(copy / name), *arguments]
        return subprocess.run(command, cwd=self.dir, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, **options)

    def test_mistakes_in_myconfig_are_one_sentence_with_the_line(self) -> None:
        line = (PROJECT_DIR / "myconfig.py").read_text(encoding="utf-8").count("\n") + 2
        cases = {
            "BI_LSTM = true": f"line {line}: .*True and False with capitals",
            "RESULTS_DIR = results": f"line {line}: .*texts in quotes",
            'print "hi"': f"line {line}: ",
            "\tN_MFCC = 20": f"line {line}: ",
            "n_mfcc = 20": "no setting 'n_mfcc'. Did you mean N_MFCC",
            "TRAINING_STEP = 20": "no setting 'TRAINING_STEP'. Did you mean TRAINING_STEPS",
        }
        for change, words in cases.items():
            for name in ("neural_net.py", "speaker_id.py"):
                with self.subTest(change, name=name):
                    answer = self.run_copy(name, *(["list"] if name == "speaker_id.py" else []), change=change)
                    self.assertEqual((answer.returncode, answer.stderr.count("\n")), (2, 1), answer.stderr)
                    self.assertRegex(answer.stderr, f"^Error: .*{words}")

    def test_a_missing_package_is_one_sentence(self) -> None:
        [recording] = [str(path) for path in corpus().rglob("*.flac")][:1]
        for package, command, requirements in (
            ("numpy", ("neural_net.py",), "requirements.txt"),
            ("matplotlib", ("speaker_id.py", "timeline", recording), "requirements-use.txt"),
        ):
            folder = self.dir / package
            folder.mkdir()
            (folder / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})")
            answer = self.run_script(*command, env={**os.environ, "PYTHONPATH": str(folder)})
            expected = f"Error: {package} is not installed: pip3 install -r {requirements}.\n"
            self.assertEqual((answer.returncode, answer.stderr), (2, expected))

    def test_what_does_not_train_does_not_wait_for_torch(self) -> None:
        (self.dir / "torch.py").write_text("raise SystemExit('torch was loaded')")
        environment = {**os.environ, "PYTHONPATH": str(self.dir)}
        line = "import sys; from speaker_id import DEFAULT_MODEL; assert 'torch' not in sys.modules"
        self.assertEqual(subprocess.run([sys.executable, "-c", line], cwd=PROJECT_DIR).returncode, 0)
        for arguments, words in {
            ("list",): "nobody is enrolled yet",
            ("remove", "Ann"): "nobody is enrolled yet",
            ("rename", "Ann", "Bob"): "nobody is enrolled yet",
            ("verify", "gone.wav", "gone.wav"): "does not exist",
            ("identify", __file__): "nobody is enrolled yet",
            ("map", __file__, "--out", "map.pdf"): "must end in .png",
            ("enrol", "Ann", __file__, "--model", "gone.pt"): "no model gone.pt",
        }.items():
            answer = self.run_script("speaker_id.py", *arguments, env=environment)
            self.assertEqual((answer.returncode, answer.stderr.count("\n")), (2, 1), answer.stderr)
            self.assertIn(words, answer.stderr)
        [ann, bob] = [sorted(map(str, (corpus() / f"test/s{number}").rglob("*.flac")))[:3] for number in (24, 25)]
        for arguments, code in {
            ("verify", ann[0], ann[1]): (0, 1, 3),
            ("enrol", "Ann", *ann[:2]): (0,),
            ("identify", ann[2], bob[0]): (0, 1, 3),
            ("timeline", bob[0]): (0,),
            ("sort", *ann, *bob): (0,),
            ("embed", *ann): (0,),
            ("map", *ann, *bob): (0,),
        }.items():
            with self.subTest(arguments[0]):
                answer = self.run_script("speaker_id.py", *arguments, env=environment)
                self.assertIn(answer.returncode, code, answer.stdout + answer.stderr)

    def test_no_script_imports_what_needs_a_folder_to_cache_in(self) -> None:
        """librosa compiles functions with numba, which fails where neither home nor packages can be written."""
        imports = "import neural_net, evaluation, speaker_id, experiments.ladder, voices.map, sys"
        forbidden = "assert not {'librosa', 'numba'} & sys.modules.keys()"
        answer = subprocess.run([sys.executable, "-c", f"{imports}; {forbidden}"], cwd=PROJECT_DIR)
        self.assertEqual(answer.returncode, 0)

    @unittest.skipIf(os.name == "nt", "Pipes end otherwise on Windows.")
    def test_output_that_nobody_reads_is_not_an_answer(self) -> None:
        for streams in ({"stdout": True}, {"stdout": True, "stderr": True}):
            read, write = os.pipe()
            os.close(read)
            command = [sys.executable, str(PROJECT_DIR / "speaker_id.py"), "list", "--db", str(self.dir / "gone.db")]
            ends = dict.fromkeys(streams, write)
            code = subprocess.run(command, cwd=self.dir, **{"stderr": subprocess.DEVNULL, **ends}).returncode
            os.close(write)
            self.assertEqual(code, 2)
        read, write = os.pipe()
        os.close(read)
        code = subprocess.run([sys.executable, "-c", PRINTING], cwd=PROJECT_DIR, stdout=write, stderr=write).returncode
        os.close(write)
        self.assertEqual(code, 141)

    @unittest.skipIf(os.name == "nt", "Windows has no signals.")
    def test_a_lost_interrupt_is_noticed_and_told_in_one_sentence(self) -> None:
        command = [sys.executable, "-c", LOSING]
        process = subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "ready\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual((process.returncode, errors.count("\n")), (130, 2), errors)
        self.assertIn("Stopped.", errors)

    @unittest.skipIf(os.name == "nt", "Windows has no signals.")
    def test_an_interrupt_during_imports_is_one_sentence(self) -> None:
        command = [sys.executable, str(PROJECT_DIR / "neural_net.py"), *self.typed]
        for seconds in (0.3, 0.6, 0.9):
            process = subprocess.Popen(
                command, cwd=self.dir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            self.assertEqual((process.returncode, errors.count("\n")), (130, 2), errors)


PRINTING = """
from foundation import script
script.run(lambda: print("yes" * 10000))
"""

# The handler runs inside a callback, in which Python drops exceptions.
LOSING = """
import time, weakref
from foundation import script

class Thing:
    pass

def callback(_):
    print("ready", flush=True)
    time.sleep(20)

def main():
    thing = Thing()
    keep = weakref.ref(thing, callback)
    del thing
    script.raise_if_interrupted()
    time.sleep(20)

script.run(main)
"""
