/** A browser, a server over recorded runs, and what every test of the page watches. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import axe from 'axe-core';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { CHROMIUM_FLAGS } from '../../scripts/chromium.mjs';
import { type Dashboard, startDashboard } from '../../src/server/server.js';
import { COMMAND_LINE } from '../support/command-line.js';
import { writeRecordedRuns } from '../support/recorded-runs.mjs';

const TOKEN = 'T'.repeat(43);

export interface Bench {
  readonly browser: Browser;
  /** The folder of runs. */
  readonly root: string;
  dashboard: Dashboard;
  /** What no test may cause: requests to elsewhere, violations of the content policy, errors of scripts. */
  readonly offences: string[];
  close(): Promise<void>;
}

export const startServer = (root: string, port = 0): Promise<Dashboard> =>
  startDashboard({
    roots: [root],
    port,
    token: TOKEN,
    commandLine: COMMAND_LINE,
    sliceGrid: (width, height) =>
      width * height > 448 * 448 ? [Math.ceil(width / 448), Math.ceil(height / 448)] : null,
    version: '0.1.0',
    cwd: root,
  });

export async function startBench(prepare: (root: string) => void | Promise<void> = () => undefined): Promise<Bench> {
  const root = mkdtempSync(join(tmpdir(), 'minicpm-finetune-page-'));
  await writeRecordedRuns(root);
  await prepare(root);
  const dashboard = await startServer(root);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM!, args: CHROMIUM_FLAGS });
  const bench: Bench = {
    browser,
    root,
    dashboard,
    offences: [],
    async close() {
      await browser.close();
      await bench.dashboard.close();
      rmSync(root, { recursive: true, force: true });
    },
  };
  return bench;
}

export interface Look {
  readonly language?: 'en' | 'zh';
  readonly theme?: 'light' | 'dark';
  readonly width?: number;
  readonly height?: number;
}

/** A page that is signed in and shows `address`, such as `runs`. */
export async function openPage(bench: Bench, address = 'runs', look: Look = {}): Promise<Page> {
  const { language = 'en', theme = 'light', width = 1440, height = 900 } = look;
  const context = await bench.browser.newContext({
    viewport: { width, height },
    locale: language === 'zh' ? 'zh-CN' : 'en-US',
    colorScheme: theme,
    reducedMotion: 'reduce',
    timezoneId: 'UTC',
  });
  const page = await context.newPage();
  await watch(bench, context, page);
  await page.goto(bench.dashboard.url);
  await page.waitForFunction(() => location.hash === '#/runs' && document.querySelector('h1') !== null);
  await show(page, address);
  return page;
}

async function watch(bench: Bench, context: BrowserContext, page: Page): Promise<void> {
  const { offences } = bench;
  await context.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) =>
      console.error(`content policy: ${event.violatedDirective} ${event.blockedURI}`),
    );
  });
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol !== 'blob:' && url.hostname !== '127.0.0.1') offences.push(`request: ${request.url()}`);
  });
  page.on('pageerror', (error) => offences.push(`script: ${error.stack ?? error.message}`));
  page.on('console', (message) => {
    // A server that is gone is an error of the network, which the tests cause themselves.
    if (message.type() === 'error' && !/ERR_|status of 401/.test(message.text())) offences.push(message.text());
  });
}

/** Shows another screen and waits until nothing loads any more. */
export async function show(page: Page, address: string): Promise<void> {
  await page.evaluate((hash) => {
    location.hash = hash;
  }, `#/${address}`);
  await settled(page);
}

/** Until no "Loading…" is left and charts are drawn. */
export async function settled(page: Page): Promise<void> {
  await page.waitForFunction(() => {
    const text = document.querySelector('main')?.textContent ?? '';
    return text.trim() !== '' && !/Loading…|正在加载…/.test(text);
  });
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
}

/** The findings of axe that are serious or critical; `rules`: only these. */
export async function findings(page: Page, rules?: readonly string[]): Promise<string[]> {
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(axe.source);
  const violations = await page.evaluate(
    async (only) =>
      (
        await (window as unknown as { axe: { run(of: Document, options: object): Promise<AxeResults> } }).axe.run(
          document,
          {
            resultTypes: ['violations'],
            ...(only ? { runOnly: { type: 'rule', values: only } } : {}),
          },
        )
      ).violations.map(({ id, impact, nodes }) => ({
        id,
        impact,
        nodes: nodes.map((node) => `${node.target.join(' ')} ${node.failureSummary}`),
      })),
    rules,
  );
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).join('; ')}`);
}

interface AxeResults {
  violations: { id: string; impact: string; nodes: { target: string[]; failureSummary: string }[] }[];
}

/** The id of a run, as the server knows it. */
export async function runId(page: Page, name: string): Promise<string> {
  const id = await page.evaluate(async (wanted) => {
    const { runs } = (await (await fetch('/api/runs')).json()) as {
      runs: { id: string; name: string; folder: string }[];
    };
    return runs.find((run) => run.name === wanted || run.folder.endsWith(`/${wanted}`))?.id;
  }, name);
  if (id === undefined) throw new Error(`Expected a run ${name} but the server has none.`);
  return id;
}
