/** The server over a model: what other packages may use. */
export {};
