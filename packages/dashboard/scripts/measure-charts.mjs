/**
 * Measures how long a person waits for charts. Clicks in a real browser, from the click until the charts are on the screen:
 *
 *     node packages/dashboard/scripts/measure-charts.mjs [--steps 100000] [--rounds 5]
 *
 * Prints one line of JSON: for the overview of a long run and for its ten charts, the milliseconds of each round. `cold`: the server
 * has just begun, so the first round waits for the run's file to be read.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { CHROMIUM_FLAGS, findChromium } from './chromium.mjs';
import { makeRuns, served, TOKEN } from './made-runs.mjs';

const flag = (name, usual) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? usual : Number(process.argv[at + 1]);
};

/** In the page: clicks, and waits until so many charts that were not there before are painted. */
function timeOf({ address, charts }) {
  return new Promise((resolve) => {
    const before = new Set(document.querySelectorAll('canvas'));
    const began = performance.now();
    const look = () => {
      const drawn = [...document.querySelectorAll('.uplot canvas')].filter((canvas) => !before.has(canvas));
      if (drawn.length < charts) requestAnimationFrame(look);
      else requestAnimationFrame(() => setTimeout(() => resolve(Math.round(performance.now() - began))));
    };
    document.querySelector(`main a[href*="${address}"]`).click();
    requestAnimationFrame(look);
  });
}

async function measured(browser, port, pause) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  await page.goto(`http://127.0.0.1:${port}/#token=${TOKEN}`);
  await page.waitForSelector('main tbody a');
  await page.waitForTimeout(pause);
  const overview = await page.evaluate(timeOf, { address: '#/runs/', charts: 1 });
  await page.waitForTimeout(500);
  const charts = await page.evaluate(timeOf, { address: '/charts', charts: 10 });
  await context.close();
  return { overview, charts };
}

const { path, reason } = findChromium((line) => console.error(line));
if (path === undefined) throw new Error(`Expected a browser but there is none: ${reason}.`);
const folder = mkdtempSync(join(tmpdir(), 'page-measure-'));
const browser = await chromium.launch({ executablePath: path, args: CHROMIUM_FLAGS });
try {
  makeRuns(folder, ['long'], flag('steps', 100_000));
  const cold = await served(folder, ({ port }) => measured(browser, port, 0));
  const rounds = await served(folder, async ({ port }) => {
    const all = [];
    for (let round = 0; round < flag('rounds', 5); round++) all.push(await measured(browser, port, 1000));
    return all;
  });
  const of = (name) => rounds.map((round) => round[name]);
  console.log(JSON.stringify({ steps: flag('steps', 100_000), cold, overview: of('overview'), charts: of('charts') }));
} finally {
  await browser.close();
  rmSync(folder, { recursive: true, force: true });
}
