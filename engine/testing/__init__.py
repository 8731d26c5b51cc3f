"""For tests of functions: a pytest plugin that runs an engine for the session and gives each test an empty account on it.

``lambda_engine`` is the fixture to ask for; ``engine.testing.events`` makes events as AWS sends them. pytest finds the plugin by its entry point.
"""

from engine.testing.account import Account as Account
from engine.testing.account import Failed as Failed
from engine.testing.account import Function as Function
from engine.testing.server import Server as Server
from engine.testing.server import running as running
