# SPDX-License-Identifier: Apache-2.0
"""Programs of this folder as modules of others."""

import importlib.machinery
import importlib.util
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def load(name):
    """Returns program 'name' of this folder as a module."""
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader(
        re.sub(r"\W", "_", name), os.path.join(HERE, name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
