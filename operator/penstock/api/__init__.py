"""The words of Penstock: CRD models, status, reasons, and what a preparation answers. Imports nothing of Penstock."""
