"""Migrations, the oldest first. Revision ids stay: databases hold them."""
