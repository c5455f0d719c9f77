/** Hosts as flags name them. Those under which a server is reached, and those that it reaches. */
import { expected } from '@minicpm-finetune/run';

/** A name, an address of version 4, or one of version 6 in brackets; then perhaps a port. */
const HOST = /^(?:\[[0-9a-f:.]+\]|[^\s/:@?#[\]\\*,]+)(?::\d{1,5})?$/i;

/**
 * The values of a flag, in the form in which they are compared.
 *
 * @param flag such as `--allowed_host`
 * @throws UserError for an address with a scheme or a path, which no host ever equals
 */
export function hostsOf(values: readonly string[], flag: string): string[] {
  for (const value of values) {
    if (HOST.test(value)) continue;
    throw expected('a host such as example.com or example.com:8443', flag, value, {
      flag,
      cure: 'It is a name or an address and perhaps a port, without http:// and without a path.',
    });
  }
  return values.map((value) => value.toLowerCase());
}
