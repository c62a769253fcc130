"""Programs that use multinorm_optax."""

import sys

from examples.llama.run.stop import end_quietly

if sys.argv[0] == "-m":  # while Python looks for the module that it is to run: a command of these
    end_quietly()
