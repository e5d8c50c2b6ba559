//! Reads Einstein sums: permutations, sums over what only one tensor has, and products of matrices of two tensors.

use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::Op;
use super::size::{Size, product};

/// A tensor, and the letter of each of its dimensions.
#[derive(Clone)]
struct Term {
    source: Source,
    letters: Vec<char>,
}

pub(super) fn read(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let equation = lowering.arguments.text("equation", "")?;
    let tensors = lowering.tensors("tensors")?;
    lowering.arguments.pass(&["path"]);
    let ranks: Vec<usize> = tensors.iter().map(|&tensor| lowering.value(tensor).shape.len()).collect();
    let (inputs, output) = letters(&without_ellipses(equation, &ranks)?)?;
    if inputs.len() != tensors.len() {
        return Err("has an equation whose number of terms differs from that of its tensors".to_owned());
    }
    let mut terms = Vec::new();
    for (source, letters) in tensors.into_iter().zip(inputs) {
        if letters.len() != lowering.value(source).shape.len() {
            return Err("has an equation whose number of dimensions differs from its tensor's".to_owned());
        }
        terms.push(Term { source, letters });
    }
    // From the left, as PyTorch does it. What a later term has is kept until then.
    let mut later = terms.into_iter();
    let mut result = later.next().ok_or_else(|| "multiplies nothing".to_owned())?;
    while let Some(next) = later.next() {
        let of_later = later.as_slice().iter().flat_map(|term| &term.letters);
        let kept: Vec<char> = output.iter().chain(of_later).copied().collect();
        result = together(lowering, result, next, &kept)?;
    }
    let result = alone(lowering, result, &output)?;
    let order = order(&result.letters, &output)?;
    Ok(vec![lowering.permute(result.source, order)?])
}

/// The equation with letters of their own for the dimensions that `...` stands for, of which terms have the last ones.
fn without_ellipses(equation: &str, ranks: &[usize]) -> OrFault<String> {
    const ELLIPSIS: &str = "...";
    let plain: String = equation.chars().filter(|letter| *letter != ' ').take(200).collect();
    let Some((inputs, output)) = plain.split_once("->").filter(|_| plain.contains(ELLIPSIS)) else { return Ok(plain) };
    if inputs.split(',').count() != ranks.len() {
        return Err("has an equation whose number of terms differs from that of its tensors".to_owned());
    }
    let unused = ('a'..='z').chain('A'..='Z').filter(|letter| !plain.contains(*letter)).collect::<String>();
    let fault = || "has an equation whose number of dimensions differs from its tensor's".to_owned();
    // How many dimensions each term's ellipsis stands for.
    let counts = inputs.split(',').zip(ranks).map(|(term, rank)| {
        let own = term.replacen(ELLIPSIS, "", 1).chars().count();
        rank.checked_sub(own).ok_or_else(fault)
    });
    let counts = counts.collect::<OrFault<Vec<usize>>>()?;
    let most = inputs.split(',').zip(&counts).filter(|(term, _)| term.contains(ELLIPSIS)).map(|(_, count)| *count);
    let all = unused.get(..most.max().unwrap_or(0)).ok_or_else(fault)?;
    let inputs: Vec<String> = inputs
        .split(',')
        .zip(&counts)
        .map(|(term, count)| term.replacen(ELLIPSIS, &all[all.len().saturating_sub(*count)..], 1))
        .collect();
    Ok(format!("{}->{}", inputs.join(","), output.replacen(ELLIPSIS, all, 1)))
}

/// The letters of an equation's terms and of its result.
fn letters(equation: &str) -> OrFault<(Vec<Vec<char>>, Vec<char>)> {
    let fault = || "has an equation that is not supported: use letters, and name the result's".to_owned();
    let plain: String = equation.chars().filter(|letter| *letter != ' ').take(200).collect();
    let (inputs, output) = plain.split_once("->").ok_or_else(fault)?;
    let term = |text: &str| -> OrFault<Vec<char>> {
        let letters: Vec<char> = text.chars().collect();
        let is_sound = |at: usize| letters[at].is_ascii_alphabetic() && !letters[..at].contains(&letters[at]);
        if (0..letters.len()).all(is_sound) { Ok(letters) } else { Err(fault()) }
    };
    let inputs = inputs.split(',').map(term).collect::<OrFault<Vec<_>>>()?;
    let output = term(output)?;
    let is_known = |letter| inputs.iter().any(|input| input.contains(letter));
    if output.iter().all(is_known) { Ok((inputs, output)) } else { Err(fault()) }
}

/// A tensor without the dimensions that `kept` does not have: their sum.
fn alone(lowering: &mut Lowering<'_>, term: Term, kept: &[char]) -> OrFault<Term> {
    let dimensions: Vec<usize> = (0..term.letters.len()).filter(|&at| !kept.contains(&term.letters[at])).collect();
    if dimensions.is_empty() {
        return Ok(term);
    }
    let letters = term.letters.iter().copied().filter(|letter| kept.contains(letter)).collect();
    Ok(Term { source: lowering.sum(term.source, dimensions, false)?, letters })
}

fn together(lowering: &mut Lowering<'_>, one: Term, two: Term, output: &[char]) -> OrFault<Term> {
    let also: Vec<char> = output.iter().chain(&two.letters).copied().collect();
    let one = alone(lowering, one, &also)?;
    let also: Vec<char> = output.iter().chain(&one.letters).copied().collect();
    let two = alone(lowering, two, &also)?;
    let in_both: Vec<char> = one.letters.iter().copied().filter(|letter| two.letters.contains(letter)).collect();
    let (shared, summed): (Vec<char>, Vec<char>) = in_both.into_iter().partition(|letter| output.contains(letter));
    let only = |this: &Term, other: &Term| -> Vec<char> {
        this.letters.iter().copied().filter(|letter| !other.letters.contains(letter)).collect()
    };
    let (rows, columns) = (only(&one, &two), only(&two, &one));
    // [shared…, rows, summed] · [shared…, summed, columns].
    let left = matrix(lowering, &one, &shared, [&rows, &summed])?;
    let right = matrix(lowering, &two, &shared, [&summed, &columns])?;
    let multiplied = lowering.add(Op::Matmul, &[left, right])?;
    let letters = [shared, rows, columns].concat();
    let size = |letter: &char| {
        let of = |term: &Term| {
            let at = term.letters.iter().position(|other| other == letter)?;
            Some(lowering.value(term.source).shape[at])
        };
        let (first, second) = (of(&one), of(&two));
        match (first, second) {
            // A size of 1 is broadcast.
            (Some(Size::Fixed(1)), Some(other)) => other,
            (found, other) => found.or(other).unwrap_or(Size::Fixed(1)),
        }
    };
    let shape = letters.iter().map(size).collect();
    Ok(Term { source: lowering.reshape(multiplied, shape)?, letters })
}

/// [shared…, first group, second group], each group in one dimension.
fn matrix(lowering: &mut Lowering<'_>, term: &Term, shared: &[char], groups: [&Vec<char>; 2]) -> OrFault<Source> {
    let wanted = [shared, groups[0].as_slice(), groups[1].as_slice()].concat();
    let order = order(&term.letters, &wanted)?;
    let sorted = lowering.permute(term.source, order)?;
    let shape = lowering.shape(sorted);
    let (leading, rest) = shape.split_at(shared.len());
    let (first, second) = rest.split_at(groups[0].len());
    let merged =
        |sizes: &[Size]| product(sizes).ok_or_else(|| "has too many elements or the batch size twice".to_owned());
    lowering.reshape(sorted, [leading, &[merged(first)?, merged(second)?]].concat())
}

/// Where each wanted letter is.
fn order(letters: &[char], wanted: &[char]) -> OrFault<Vec<usize>> {
    let place = |letter: &char| letters.iter().position(|other| other == letter);
    let order: Option<Vec<usize>> = wanted.iter().map(place).collect();
    order.filter(|order| order.len() == letters.len()).ok_or_else(|| "has an equation that does not add up".to_owned())
}
