"""Ruby functions: a runtime client of ours in Ruby, behind the agent. Nothing here is Python."""
