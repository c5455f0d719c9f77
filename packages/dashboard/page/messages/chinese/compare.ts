/** Words of the comparison of runs, in Chinese. */
import type { compare as english } from '../english/compare.js';
import type { TableOf } from '../table.js';

export const compare: TableOf<typeof english> = {
  title: '对比',
  runs: '运行',
  add: '添加运行',
  addNone: '请选择…',
  remove: (name) => `移除 ${name}`,
  baseline: '基准',
  noBaseline: '无',
  x: '对齐方式',
  few: '请选择 2 至 6 个运行进行对比。也可以在运行列表中选择。',
  gone: (id) => `运行 ${id} 已不存在。`,
  finals: '结果',
  measure: '指标',
  measures: {
    state: '状态',
    step: '已完成步数',
    loss: '最后的损失',
    evalLoss: '最佳评估损失',
    metric: '最佳指标',
    tokens: '词元/秒',
    memory: '内存峰值',
    duration: '用时',
  },
  config: '不同的配置',
  configSame: '配置相同。',
  flag: '参数',
  unset: '未知',
  charts: '图表',
  noCharts: '这些运行还没有可以绘制的测量值。',
  log: '对数',
  smoothing: '平滑',
  samples: '并排的回答',
  noSamples: '没有两个运行回答过相同的记录（--eval_generate）。',
  step: (step) => `第 ${step} 步`,
};
