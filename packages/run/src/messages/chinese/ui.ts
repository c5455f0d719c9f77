/** Chinese for the command ui. */
import type { Messages } from '../translator.js';

export const UI: Messages = {
  'The runs below {1} are shown at this address:': '{1} 下的训练显示在此地址：',
  'Open it in a browser. Ctrl-C ends the page; runs go on.': '请在浏览器中打开。按 Ctrl-C 结束网页；训练继续进行。',
  'warning: --host {1} lets other machines in, and nothing is encrypted: whoever reads the address can start programs as you.':
    '警告：--host {1} 会让其他机器访问，且不加密：得到该地址的人可以以你的身份启动程序。',
  'Expected a free port for --port but your page of process {1} has {2}: {3}':
    '--port 应为空闲端口，但你的网页（进程 {1}）已占用 {2}：{3}',
  'Open that address, or name another port.': '请打开该地址，或换一个端口。',
  'a free port': '空闲端口',
  'Another program has it: name another port, such as 8788.': '它已被其他程序占用：请换一个端口，例如 8788。',
  'a port that you may use': '你有权使用的端口',
  'Name one above 1023.': '请给出大于 1023 的端口。',
  'an address of this machine': '本机的地址',
  'Leave it out to listen on 127.0.0.1.': '去掉此参数即监听 127.0.0.1。',
  'Name the folder that holds run folders (--output_dir), or the folder above it.':
    '请给出存放运行目录（--output_dir）的目录，或其上级目录。',
};
