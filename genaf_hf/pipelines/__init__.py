"""What a command does, without its flags: hardening, and audits."""
