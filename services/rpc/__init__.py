"""How the services talk: servers, channels, deadlines, refusals."""
