/** The web page over run folders: what other packages may use. */
export { isServed, readToken, removeToken, type TokenRecord, writeToken } from './server/http/token.js';
export { type Dashboard, type DashboardOptions, startDashboard } from './server/server.js';
export type { SliceGrid, SliceSettings } from './server/services.js';
