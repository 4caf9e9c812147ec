"""All of Headgate on one machine: the services, a private Valkey, SQLite, and the emulator if no key is set."""
