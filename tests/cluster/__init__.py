"""Several servers on this machine, behind a load balancer without sticky sessions: `make cluster`."""
