/** The web page over run folders: what other packages may use. */
export {};
