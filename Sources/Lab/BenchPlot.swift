// The result for a person, as an image. Plain SVG 1.1 with a style sheet, light or dark as the reader has it.

import Router

extension BenchReport {
    /// One row for each set of rules: throughput, latency, TCP.
    public var plot: String {
        let names = Self.distinct(results.map(\.datapath) + tcp.map(\.datapath))
        let rows = BenchRules.allCases.filter { rules in
            results.contains { $0.rules == rules } || tcp.contains { $0.rules == rules }
        }.map { rules in panels(rules, names) }
        let columns = rows.map(\.count).max() ?? 0
        let width = Layout.margin + Double(columns) * (Layout.panelWidth + Layout.gap)
        let height = Layout.header + Double(rows.count) * Layout.rowHeight + Layout.footer

        var svg = SVG(width: width, height: height)
        svg.text("Routing between VLANs", x: Layout.margin, y: 34, class: "title")
        svg.text(machine.line, x: Layout.margin, y: 54, class: "note")
        var x = Layout.margin
        for (number, name) in names.enumerated() {
            svg.rectangle(x: x, y: 70, width: 12, height: 12, class: "s\(number % SVG.colours.count)")
            svg.text(name, x: x + 18, y: 80, class: "label")
            x += 40 + 7.5 * Double(name.count)
        }
        for (row, panels) in rows.enumerated() {
            for (column, panel) in panels.enumerated() {
                panel.draw(
                    in: &svg, x: Layout.margin + Double(column) * (Layout.panelWidth + Layout.gap),
                    y: Layout.header + Double(row) * Layout.rowHeight)
            }
        }
        svg.text(
            "Frame sizes with frame check sequence, without tag. Throughput: solid without loss, pale when more is offered. "
                + "Latency at half of the loss-free rate: dot median, bar to 99 %, line to 99.9 %.",
            x: Layout.margin, y: height - 14, class: "note")
        return svg.document
    }

    private enum Layout {
        static let margin = 60.0
        static let gap = 76.0
        static let panelWidth = 360.0
        static let panelHeight = 210.0
        static let header = 146.0
        static let rowHeight = 300.0
        static let footer = 12.0
    }

    private static func distinct<Value: Hashable>(_ values: [Value]) -> [Value] {
        var seen: Set<Value> = []
        return values.filter { seen.insert($0).inserted }
    }

    private func panels(_ rules: BenchRules, _ names: [String]) -> [Panel] {
        let what = rules == .none ? "no masquerading" : "the article's rules"
        let all = results.filter { $0.rules == rules }
        // Those with other numbers of flows have a diagram of their own.
        let cells = all.filter { $0.flows == all.first?.flows }
        let shapes = Self.distinct(cells.map { Shape(frameBytes: $0.frameBytes, routes: $0.routes) })
        let manyTables = Set(shapes.map(\.routes)).count > 1
        func columns(_ mark: (Cell) -> Panel.Mark?) -> [Panel.Column] {
            shapes.map { shape in
                Panel.Column(
                    label: manyTables ? "\(shape.frameBytes) B, \(shape.routes)" : "\(shape.frameBytes)",
                    marks: Self.marks(names) { name in
                        cells.first {
                            $0.datapath == name && $0.frameBytes == shape.frameBytes && $0.routes == shape.routes
                        }.flatMap(mark)
                    })
            }
        }
        // Rows have the same scales, so that rules can be compared.
        let throughputs = Scale(from0To: results.map(\.maxMpps).filter(\.isFinite).max() ?? 1)
        let latencies = Scale(
            decadesOf: results.compactMap(\.latencyMicroseconds).flatMap { [$0.p50, $0.p99, $0.p999] })
        var result: [Panel] = []
        if !cells.isEmpty {
            let axis = manyTables ? "frame size, routes" : "frame size, bytes"
            result.append(
                Panel(
                    title: "Throughput, \(what)", unit: "million frames a second", axis: axis, scale: throughputs,
                    columns: columns { .bar($0.maxMpps, solid: $0.lossFreeMpps) }))
            result.append(
                Panel(
                    title: "Latency, \(what)", unit: "microseconds", axis: axis, scale: latencies,
                    columns: columns { cell in
                        cell.latencyMicroseconds.map { .range(middle: $0.p50, bar: $0.p99, line: $0.p999) }
                    }))
        }
        let numbers = Self.distinct(all.map(\.flows))
        if numbers.count > 1, let first = all.first {
            result.append(
                Panel(
                    title: "Many flows, \(what)", unit: "million frames of \(first.frameBytes) bytes a second",
                    axis: "flows",
                    scale: throughputs,
                    columns: numbers.map { flows in
                        Panel.Column(
                            label: "\(flows)",
                            marks: Self.marks(names) { name in
                                all.first {
                                    $0.datapath == name && $0.flows == flows && $0.routes == first.routes
                                        && $0.frameBytes == first.frameBytes
                                }.map { .bar($0.maxMpps, solid: $0.lossFreeMpps) }
                            })
                    }))
        }
        let rates = Scale(from0To: self.tcp.map(\.gbitPerSecond).filter(\.isFinite).max() ?? 1)
        let tcp = tcp.filter { $0.rules == rules }
        if !tcp.isEmpty {
            result.append(
                Panel(
                    title: "TCP, \(what)", unit: "Gbit/s", axis: "connections", scale: rates,
                    columns: Self.distinct(tcp.map(\.connections)).map { connections in
                        Panel.Column(
                            label: "\(connections)",
                            marks: Self.marks(names) { name in
                                tcp.first { $0.datapath == name && $0.connections == connections }.map {
                                    .bar($0.gbitPerSecond, solid: $0.gbitPerSecond)
                                }
                            })
                    }))
        }
        return result
    }

    /// Those that there are, each with its colour.
    private static func marks(
        _ names: [String], _ mark: (String) -> Panel.Mark?
    ) -> [(colour: Int, mark: Panel.Mark)] {
        names.enumerated().compactMap { number, name in mark(name).map { (number % SVG.colours.count, $0) } }
    }

    private struct Shape: Hashable {
        let frameBytes: Int
        let routes: Int
    }

    /// A diagram with one group of marks for each column, and in a group one mark for each datapath.
    private struct Panel {
        enum Mark {
            case bar(Double, solid: Double?)
            case range(middle: Double, bar: Double, line: Double)
        }
        struct Column {
            let label: String
            let marks: [(colour: Int, mark: Mark)]
        }
        let title: String
        let unit: String
        let axis: String
        let scale: Scale
        let columns: [Column]

        func draw(in svg: inout SVG, x: Double, y: Double) {
            let bottom = y + Layout.panelHeight
            func height(_ value: Double) -> Double { bottom - scale.position(value) * Layout.panelHeight }

            svg.text(title, x: x, y: y - 26, class: "heading")
            svg.text(unit, x: x, y: y - 10, class: "note")
            for tick in scale.ticks {
                let level = height(tick.value)
                svg.line(x1: x, y1: level, x2: x + Layout.panelWidth, y2: level, class: "grid")
                svg.text(tick.label, x: x - 6, y: level + 4, class: "note end")
            }
            svg.text(axis, x: x + Layout.panelWidth / 2, y: bottom + 36, class: "note middle")

            let room = Layout.panelWidth / Double(max(columns.count, 1))
            for (number, column) in columns.enumerated() {
                let left = x + Double(number) * room
                svg.text(column.label, x: left + room / 2, y: bottom + 18, class: "label middle")
                let width = min(room * 0.8 / Double(max(column.marks.count, 1)), 40)
                let start = left + (room - width * Double(column.marks.count)) / 2
                for (place, (colour, mark)) in column.marks.enumerated() {
                    draw(
                        mark, in: &svg, x: start + Double(place) * width, width: width, colour: "s\(colour)",
                        bottom: bottom, height)
                }
            }
        }

        private func draw(
            _ mark: Mark, in svg: inout SVG, x: Double, width: Double, colour: String, bottom: Double,
            _ height: (Double) -> Double
        ) {
            let inner = width * 0.86
            let centre = x + width / 2
            switch mark {
            case .bar(let value, let solid):
                let top = height(value)
                svg.rectangle(
                    x: centre - inner / 2, y: top, width: inner, height: bottom - top, class: "\(colour) pale")
                if let solid, solid > 0 {
                    let top = height(min(solid, value))
                    svg.rectangle(x: centre - inner / 2, y: top, width: inner, height: bottom - top, class: colour)
                }
                if width >= 18 { svg.text(short(value), x: centre, y: top - 4, class: "value middle") }
            case .range(let middle, let bar, let line):
                let half = min(inner, 8) / 2
                svg.rectangle(
                    x: centre - 0.75, y: height(line), width: 1.5, height: height(middle) - height(line), class: colour)
                svg.rectangle(
                    x: centre - half, y: height(bar), width: 2 * half, height: max(height(middle) - height(bar), 0.5),
                    class: "\(colour) pale")
                svg.circle(x: centre, y: height(middle), radius: half + 0.5, class: colour)
            }
        }
    }

    /// Where values are between the bottom (0) and the top (1) of a diagram.
    private struct Scale {
        let ticks: [(value: Double, label: String)]
        private let low: Double
        private let high: Double
        private let isLogarithmic: Bool

        init(from0To largest: Double) {
            let largest = min(max(largest, 1e-3), 1e6)
            // The largest of 1, 2, 5 · 10ⁿ that gives at least four ticks.
            var step = 1.0
            while step * 4 > largest, step > 1e-9 { step /= 10 }
            while step * 40 <= largest { step *= 10 }
            for factor in [5.0, 2.0] where step * factor * 4 <= largest {
                step *= factor
                break
            }
            let count = Int((largest * 1.08 / step).rounded(.up))
            ticks = (0...max(count, 1)).map { (Double($0) * step, short(Double($0) * step)) }
            low = 0
            high = Double(max(count, 1)) * step
            isLogarithmic = false
        }

        init(decadesOf values: [Double]) {
            var lowest = 1.0
            var highest = 10.0
            let values = values.filter { $0 > 0 }.map { min(max($0, 1e-3), 1e9) }
            if let smallest = values.min(), let largest = values.max() {
                while lowest > smallest { lowest /= 10 }
                while lowest * 10 <= smallest { lowest *= 10 }
                highest = lowest * 10
                while highest < largest { highest *= 10 }
            }
            var ticks: [(Double, String)] = []
            var value = lowest
            while value <= highest * 1.01 {
                ticks.append((value, short(value)))
                value *= 10
            }
            self.ticks = ticks
            low = lowest
            high = highest
            isLogarithmic = true
        }

        func position(_ value: Double) -> Double {
            guard isLogarithmic else { return min(max(value / high, 0), 1) }
            // Logarithms without a mathematics library: tenths of a decade are exact enough for an image.
            let decades = Self.logarithm(high / low)
            return decades > 0 ? min(max(Self.logarithm(max(value, low) / low) / decades, 0), 1) : 0
        }

        /// To base 10, of a number from 1 on: digits of the exponent, three of them behind the point.
        private static func logarithm(_ value: Double) -> Double {
            var rest = min(value, 1e12)
            var result = 0.0
            var weight = 1.0
            for _ in 0..<4 {
                while rest >= 10 {
                    rest /= 10
                    result += weight
                }
                rest = (0..<10).reduce(1) { power, _ in power * rest }
                weight /= 10
            }
            return result
        }
    }
}

extension BenchReport.Machine {
    /// The machine in a line.
    public var line: String {
        let memory = (memoryBytes + 1 << 29) >> 30
        return
            "\(cpu), \(cores) cores, \(memory) GiB, Linux \(kernel), VLAN interfaces \(driver.rawValue), vrouter \(vrouter), \(date)"
    }
}

/// Three digits at most, as few as say it.
private func short(_ value: Double) -> String {
    let places = value >= 99.5 || value == 0 ? 0 : value >= 9.95 ? 1 : value >= 0.0995 ? 2 : 3
    let scale = (0..<places).reduce(1.0) { scale, _ in scale * 10 }
    var text = "\((value * scale).rounded() / scale)"
    if text.hasSuffix(".0") { text.removeLast(2) }
    return text
}

/// Writes one image.
private struct SVG {
    /// For light and for dark, told apart also by those who do not see red and green apart.
    static let colours = [
        ("#2f6fb0", "#6aa9e9"), ("#d97706", "#f5a742"), ("#4d8f5b", "#86c795"), ("#8e5aa8", "#c79be0"),
        ("#a03c3c", "#e08a8a"),
    ]
    private var body = ""
    private let width: Double
    private let height: Double

    init(width: Double, height: Double) {
        self.width = width
        self.height = height
    }

    mutating func text(_ text: String, x: Double, y: Double, class name: String) {
        body += "<text x=\"\(number(x))\" y=\"\(number(y))\" class=\"\(name)\">\(escaped(text))</text>\n"
    }

    mutating func rectangle(x: Double, y: Double, width: Double, height: Double, class name: String) {
        body +=
            "<rect x=\"\(number(x))\" y=\"\(number(y))\" width=\"\(number(width))\" height=\"\(number(max(height, 0)))\" class=\"\(name)\"/>\n"
    }

    mutating func circle(x: Double, y: Double, radius: Double, class name: String) {
        body += "<circle cx=\"\(number(x))\" cy=\"\(number(y))\" r=\"\(number(radius))\" class=\"\(name)\"/>\n"
    }

    mutating func line(x1: Double, y1: Double, x2: Double, y2: Double, class name: String) {
        body +=
            "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\" class=\"\(name)\"/>\n"
    }

    var document: String {
        let light = Self.colours.enumerated().map { ".s\($0) { fill: \($1.0) }" }.joined(separator: " ")
        let dark = Self.colours.enumerated().map { ".s\($0) { fill: \($1.1) }" }.joined(separator: " ")
        return """
            <svg xmlns="http://www.w3.org/2000/svg" width="\(number(width))" height="\(number(height))" viewBox="0 0 \(number(width)) \(number(height))">
            <style>
            text { font: 12px system-ui, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
            .title { font-size: 20px; font-weight: 600 } .heading { font-size: 14px; font-weight: 600 }
            .note { fill: #59636e } .value { font-size: 10px } .middle { text-anchor: middle } .end { text-anchor: end }
            .paper { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 } .pale { fill-opacity: 0.4 }
            \(light)
            @media (prefers-color-scheme: dark) {
            text { fill: #e6edf3 } .note { fill: #9198a1 } .paper { fill: #0d1117 } .grid { stroke: #3d444d }
            \(dark)
            }
            </style>
            <rect class="paper" width="\(number(width))" height="\(number(height))"/>
            \(body)</svg>

            """
    }

    /// With one decimal.
    private func number(_ value: Double) -> String {
        value.isFinite && abs(value) < 1e6 ? "\((value * 10).rounded() / 10)" : "0"
    }

    private func escaped(_ text: String) -> String {
        text.reduce(into: "") { result, character in
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.append(character)
            }
        }
    }
}
