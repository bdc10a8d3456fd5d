"""Parts to run puppetmaster without the real ones: a controller, a broker, simulated devices."""
