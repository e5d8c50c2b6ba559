-- An attempt's number can be given twice. A write that is refused counts for the attempt that made it, so the ledger has
-- the claim too; null is an attempt that began before this, or on a worker from before it.
alter table attempts add column claim text;
