/** The screens that the browser tests walk through. */

/** Ids of recorded runs by name. */
export type Ids = Readonly<Record<'digits' | 'invoices' | 'live' | 'killed' | 'preference', string>>;

export interface Screen {
  readonly name: string;
  readonly address: string;
}

/**
 * Every screen, with as much on it as the recorded runs have.
 *
 * @param data the id of opened data.
 */
export const screensOf = ({ digits, invoices, live }: Ids, data: string): Screen[] => [
  { name: 'runs', address: 'runs' },
  { name: 'overview', address: `runs/${live}` },
  { name: 'charts', address: `runs/${invoices}/charts?abandoned=1` },
  { name: 'samples', address: `runs/${digits}/samples` },
  { name: 'checkpoints', address: `runs/${invoices}/checkpoints` },
  { name: 'config', address: `runs/${digits}/config` },
  { name: 'log', address: `runs/${live}/log` },
  { name: 'system', address: `runs/${digits}/system` },
  { name: 'compare', address: `compare?runs=${digits},${invoices}&baseline=${digits}` },
  { name: 'open-data', address: 'data' },
  { name: 'data', address: `data/${data}` },
  { name: 'record', address: `data/${data}/2` },
  { name: 'new-run', address: `new-run?from=${digits}` },
  { name: 'chat', address: 'chat' },
  { name: 'machine', address: 'machine' },
];
