//! The Pareto front: what no peer beats in ratio and speed at once.

/// A coder as a point: compression speed and ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) speed: f64,
    pub(crate) ratio: f64,
}

/// Points that no other beats in both, slowest and densest first.
pub(crate) struct Front {
    points: Vec<Point>,
}

impl Front {
    pub(crate) fn new(points: impl IntoIterator<Item = Point>) -> Self {
        let mut all: Vec<Point> = points.into_iter().collect();
        all.sort_by(|one, other| other.speed.total_cmp(&one.speed).then(other.ratio.total_cmp(&one.ratio)));
        let mut points: Vec<Point> = Vec::new();
        for point in all {
            if points.last().is_none_or(|last| point.ratio > last.ratio) {
                points.push(point);
            }
        }
        points.reverse();
        Self { points }
    }

    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// The ratio that the front offers at `speed`: straight lines between its points, both axes
    /// logarithmic. Slower than all of them the densest is the measure, faster than all none.
    pub(crate) fn ratio_at(&self, speed: f64) -> f64 {
        let Some(after) = self.points.iter().position(|point| point.speed >= speed) else { return 1.0 };
        let fast = self.points[after];
        let Some(slow) = after.checked_sub(1).map(|before| self.points[before]) else { return fast.ratio };
        let way = (speed / slow.speed).ln() / (fast.speed / slow.speed).ln();
        (slow.ratio.ln() + way * (fast.ratio / slow.ratio).ln()).exp()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn dominated_points_do_not_count_and_lines_are_logarithmic() {
        let point = |speed, ratio| Point { speed, ratio };
        let front = Front::new([point(100.0, 4.0), point(90.0, 3.0), point(400.0, 1.0), point(100.0, 2.0)]);
        assert_eq!(front.points, [point(100.0, 4.0), point(400.0, 1.0)]);
        assert!((front.ratio_at(200.0) - 2.0).abs() < 1e-9, "half way in logarithms");
        assert!((front.ratio_at(50.0) - 4.0).abs() < 1e-9);
        assert!((front.ratio_at(1000.0) - 1.0).abs() < 1e-9);
    }
}
