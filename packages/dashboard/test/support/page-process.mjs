/** The page's server as a process of its own: `page-process.mjs ROOT PORT TRAINER`. Prints its port when it listens. */
import { startDashboard } from '../../dist/server/server.js';

const [root, port, trainer] = process.argv.slice(2);
const page = await startDashboard({
  roots: [root],
  port: Number(port),
  token: 't'.repeat(43),
  commandLine: { program: process.execPath, words: [trainer] },
  sliceGrid: () => null,
  version: '0.0.0',
  cwd: root,
});
console.log(page.port);
