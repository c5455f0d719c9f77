/** The server over a model: what other packages may use. */
export { type SamplingDefaults, samplingDefaults } from './engine/defaults.js';
export { ChatEngine, type EngineOptions } from './engine/engine.js';
export { ChatServer, type ServerOptions } from './http/server.js';
