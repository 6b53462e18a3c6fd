"""The paper's measures, figures and report; numpy alone, no network."""
