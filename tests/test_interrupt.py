"""A signal that a callback swallows still ends the command."""

SWALLOWED = """
import gc, os, signal, sys
from fracjax import interrupt

interrupt.install()

def callback(phase, info):
    os.kill(os.getpid(), int(sys.argv[1]))  # arrives in here, where nothing may be raised
    for _ in range(1000):
        pass

gc.callbacks.append(callback)
gc.collect()
gc.callbacks.clear()
print("went on", flush=True)
interrupt.check()
print("never here")
"""


def test_a_swallowed_signal_is_raised_again(run_python):
    for number in (2, 15):
        done = run_python("-c", SWALLOWED, number)
        assert done.stdout.split("\n") == ["went on", ""], done.stderr
        assert done.stderr == ""
        assert done.returncode == 128 + number
