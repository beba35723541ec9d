"""The checks of the campaign `cluster`: several node processes on one PostgreSQL, without a broker."""
