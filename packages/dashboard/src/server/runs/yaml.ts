/** A configuration as a recipe in YAML. Groups with keys below, values written as JSON, which YAML contains. */
export function yamlOf(config: object): string {
  const lines: string[] = [];
  for (const [group, table] of Object.entries(config) as [string, unknown][]) {
    if (typeof table !== 'object' || table === null) {
      lines.push(`${group}: ${JSON.stringify(table)}`);
      continue;
    }
    lines.push(`${group}:`);
    for (const [name, value] of Object.entries(table)) lines.push(`  ${name}: ${JSON.stringify(value)}`);
  }
  return `${lines.join('\n')}\n`;
}
